"""Reference harness for the MLPerf Training benchmark "Llama 3.1 8B pretraining"."""

from llama31 import uncompiled

uncompiled.leave_out()
