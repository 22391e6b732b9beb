"""`higfa unpack`: the images in the Parquet files of a Hub clone, as a folder that `higfa plan` reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..sources.unpack import unpack
from ..wording import counted
from .shell import Parser, Speech, add_json_option, command


@command()
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("unpack", about=__doc__)
    parser.add_argument("folder", type=Path, help="the clone, with Parquet files that hold images")
    parser.add_argument("out", type=Path, help="a new folder for the images and their labels")
    parser.add_argument("--label-column", default="", metavar="NAME", help="where the labels are (default: found)")
    add_json_option(parser)
    args = parser.parse_args(argv)
    speech = Speech(args.json)
    counts = unpack(args.folder, args.out, args.label_column)
    unpacked = ", ".join(counted(count, f"{split} image", ",") for split, count in counts.items())
    speech.say(f"unpacked {unpacked} into {args.out}")
    speech.say(f"next: higfa plan ... --source {args.out}")
    speech.result(out=args.out, images=counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
