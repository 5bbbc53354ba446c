"""`python -m sae_lens_med`, which is what `torchrun -m sae_lens_med` starts: the command line."""

from sae_lens_med.cli import main

if __name__ == "__main__":
    main()
