"""python3 -m llama31 VERB ..."""

from llama31.cli import main

if __name__ == "__main__":
    main()
