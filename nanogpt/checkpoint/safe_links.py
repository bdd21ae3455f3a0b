"""Refuses links that lead out of a model's or an adapter's folder, except into the stores of DVC and Hugging Face."""

import os
import re
from pathlib import Path

from nanogpt.runtime.errors import UserError

# DVC and the Hugging Face hub keep each file under the hash of its content and put links to it into folders.
STORES = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$|/blobs/[0-9a-f]{40}(?:[0-9a-f]{24})?$")


def refuse_links_out(folder: Path) -> None:
    """Raise UserError if a file directly in `folder` is a link to a place outside it, other than into STORES.

    Such a link could copy a private file of this machine into a model that is then published.
    """
    inside = os.path.realpath(folder)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        target = Path(os.path.realpath(file))
        if file.is_symlink() and not target.is_relative_to(inside) and not STORES.search(target.as_posix()):
            raise UserError(f"{file} is a link out of its folder, to {target}; put the file itself there")
