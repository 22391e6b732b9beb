"""`higfa unpack`: the images of a Hub clone, out of its Parquet files, as a folder that `higfa plan` reads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..sources.unpack import unpack
from .shell import Parser, command, hint


@command()
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("unpack", about=__doc__)
    parser.add_argument("folder", type=Path, help="the clone, with Parquet files that hold images")
    parser.add_argument("out", type=Path, help="a new folder for the images and their labels")
    parser.add_argument("--label-column", default="", metavar="NAME", help="where the labels are (default: found)")
    args = parser.parse_args(argv)
    counts = unpack(args.folder, args.out, args.label_column)
    print(f"unpacked {', '.join(f'{count:,} {split} images' for split, count in counts.items())} into {args.out}")
    print(f"To plan with them: {hint('plan', 'FOLDER', '--workflow', 'FILE', '--source', args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
