"""Signed heads: the newest event's number and hash, signed, in a file apart from the database.

The key is made on first use and lies in the project's state directory with owner-only rights. Whoever cuts
the ledger's tail must also rewrite this file, and whoever rewrites it needs the key.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from rlback.errors import LedgerError
from rlback.ledger.chain import head_text
from rlback.records import canonical_json


class Heads:
    """Appends to and reads the file of signed heads (JSON lines; Ed25519)."""

    def __init__(self, file: Path, key_file: Path) -> None:
        self.file = file
        self.key_file = key_file

    def append(self, seq: int, hash_: str) -> None:
        """Signs and appends one head. One write call, so that a crash cuts at most the last line."""
        line = canonical_json(
            {"seq": seq, "hash": hash_, "signature": self._key().sign(head_text(seq, hash_)).hex()}
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # A leading newline ends a line that a crash left unfinished; blank lines are passed over.
            os.write(handle, ("\n" + line + "\n").encode())
        finally:
            os.close(handle)

    def lines(self) -> list[str]:
        """The lines of the file, whole or not."""
        return self.file.read_text().splitlines() if self.file.exists() else []

    def verify(self, message: bytes, signature: str) -> bool:
        """Whether a signature (hex) over a message is ours."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key().public_key().verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _key(self):  # type: ignore[no-untyped-def]  # the class lives in a module imported only here
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            return Ed25519PrivateKey.from_private_bytes(self.key_file.read_bytes())
        except FileNotFoundError:
            if self.lines():
                raise LedgerError(
                    f"the signing key {self.key_file} is gone, but {self.file} holds heads signed with it",
                    remedy="restore the key from a backup of the project's state",
                ) from None
        except ValueError:
            raise LedgerError(f"the signing key {self.key_file} is damaged", remedy="restore it from a backup") from None
        self.key_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.key_file.with_name(f"{self.key_file.name}.{secrets.token_hex(8)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, os.urandom(32))
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(temporary, self.key_file)  # the first process wins; the others read its key
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return Ed25519PrivateKey.from_private_bytes(self.key_file.read_bytes())
