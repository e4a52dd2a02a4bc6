"""Reference harness for the MLPerf Training benchmark "Llama 3.1 8B pretraining"."""

from llama31.common import deferred_imports, skip_megatron_compile

skip_megatron_compile.install_stub()
deferred_imports.install()
