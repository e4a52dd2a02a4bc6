"""The model: Llama 3.1 in NeMo and Megatron-Core, on CUDA with or without Transformer Engine, and on the CPU."""
