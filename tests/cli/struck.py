"""A conversation whose talker is struck by the signals named on the command line, one in the middle of each answer."""

import os
import signal
import sys

from test_chat import Parrot, conversation

from nano_think.cli.signals import leave_at_the_second_signal
from nano_think.inference.request import Event


class Struck(Parrot):
    def stream(self, text, *wanted):
        yield Event(request=1, token=0, text="one ")
        os.kill(os.getpid(), signal.Signals[text])
        yield Event(request=1, token=0, text="two ")


if __name__ == "__main__":
    leave_at_the_second_signal()
    talk = conversation(Struck())
    for name in sys.argv[1:]:
        talk.take(name)
    print("at the end")
