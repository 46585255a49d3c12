// The contrast of text on the strongest tint of each of six experts, as painted.
(() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const seen = (colour, under) => {
    paint.clearRect(0, 0, 1, 1);
    for (const one of under ? [under, colour] : [colour]) { paint.fillStyle = one; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const body = getComputedStyle(document.body);
  return [0, 1, 2, 3, 4, 5].map((slot) => {
    const token = document.createElement("span");
    token.className = `token e${slot}`;
    token.style.setProperty("--share", "0.55");
    document.getElementById("main").append(token);
    const under = light(seen(getComputedStyle(token).backgroundColor, body.backgroundColor));
    const text = light(seen(body.color));
    token.remove();
    return (Math.max(under, text) + 0.05) / (Math.min(under, text) + 0.05);
  });
})()
