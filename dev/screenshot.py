"""Take a picture of a report, or of any page that needs no network.

    python3 -m dev.screenshot report.html docs/report.png [--width 1280] [--height 900] [--dark] [--whole]

Needs Chromium (Debian: apt-get install chromium).
"""

import argparse
import sys
from pathlib import Path

from dev.browser import browser
from llama31.common.files import atomic_writer


def main() -> None:
    """Draw the page and write the picture."""
    parser = argparse.ArgumentParser(description="Take a picture of a page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280, help="pixels")
    parser.add_argument("--height", type=int, default=900, help="pixels")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    parser.add_argument("--whole", action="store_true", help="the whole page, not just the window")
    arguments = parser.parse_args()
    if not arguments.page.is_file():
        sys.exit(f"{arguments.page}: no such file; python3 -m llama31 report makes it")
    try:
        with browser() as page:
            page.open(arguments.page, width=arguments.width, height=arguments.height, dark=arguments.dark)
            picture = page.screenshot(whole=arguments.whole)
    except FileNotFoundError as error:
        sys.exit(str(error))
    with atomic_writer(arguments.picture) as file:
        file.write(picture)
    print(f"{arguments.picture}: {len(picture) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
