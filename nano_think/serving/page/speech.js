// The server's side of the conversation: requests, and answers as they come.

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? null;
  }
}

export async function ask(path, { key = "", method = "GET", body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, told.error);
  }
  return answer;
}

// The pieces of a streamed answer, until [DONE]; an error that comes in the stream is thrown.
export async function* listen(path, options) {
  const answer = await ask(path, { ...options, method: "POST" });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refused(0, { message: "the answer broke off" });
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const piece = JSON.parse(data);
        if (piece.error) throw new Refused(503, piece.error);
        yield piece;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
