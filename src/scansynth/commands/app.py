"""`app`: a local page that does what the commands do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from scansynth.commands.console import err, out
from scansynth.errors import InputError
from scansynth.ranges import Natural


@dataclass(frozen=True, kw_only=True)
class App:
    """Open a local page for a folder: look at scans, plan, train and watch, translate by dropping files, see it all.

    Nobody but this machine reaches the page, and nobody without the token in its address. It starts the same commands
    that you would type, which go on when the page is closed, and shows and writes nothing outside the folder.
    """

    folder: Annotated[Positional[Path], "FOLDER"] = Path()
    """Where your scans lie and runs are to lie; by default the current folder."""
    port: Natural = 0
    """Port of the address; 0 for any that is free."""

    def run(self) -> None:
        """Serve it until it is stopped."""
        from scansynth.app.jobs import FOLDER, UPLOADS
        from scansynth.app.pages import Pages
        from scansynth.app.server import Server
        from scansynth.files import check_place

        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder")
        check_place(self.folder)
        root = self.folder.resolve()
        with Server(root, Pages(root), root / FOLDER / UPLOADS, self.port) as server:
            out.print(f"Open in a browser on this machine: {server.address}", markup=False)
            err.print("Ctrl-C closes the page; what it has started goes on.", markup=False)
            server.serve_forever()
