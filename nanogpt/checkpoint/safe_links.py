"""Links in folders from elsewhere: only those into DVC's and the Hugging Face hub's stores may leave a folder."""

import re
from pathlib import Path

from nanogpt.runtime.errors import UserError

# Where DVC and the Hugging Face hub keep content under its hash, and link to it: any other link may be a trap.
STORES = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$|/blobs/[0-9a-f]{40}(?:[0-9a-f]{24})?$")


def refuse_links_out(folder: Path) -> None:
    """Raise UserError where a file directly in `folder` is a link out of it, other than into STORES."""
    inside = folder.resolve()
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.is_symlink():
            target = file.resolve()
            if not target.is_relative_to(inside) and not STORES.search(target.as_posix()):
                raise UserError(f"{file} is a link out of its folder, to {target}; put the file itself there")
