"""python3 -m llama31 VERB ..."""

from llama31.cli.main import main

if __name__ == "__main__":
    main()
