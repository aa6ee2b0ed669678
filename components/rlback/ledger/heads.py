"""Signed heads: the newest event's number and hash, signed, in a file apart from the database.

The key is made on first use and lies in the project's state directory with owner-only rights. Whoever cuts
the ledger's tail must also cut this file, and whoever rewrites it needs the key.

What this cannot show: cutting the events and the heads at the same place, or putting both back from the same
older copy, leaves a shorter ledger that verifies. Only an anchor elsewhere finds that: the newest head's line
kept where whoever holds this project cannot write (a commit that was pushed, a mail, a notary).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from rlback.errors import LedgerError
from rlback.ledger.chain import head_text, read_head
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
        """The lines of the file, whole or not; a byte that is no UTF-8 is read as U+FFFD, which no head holds.

        Raises:
            LedgerError: the file cannot be read.
        """
        return self.lines_if_any() or []

    def lines_if_any(self) -> list[str] | None:
        """`lines`, or None where there is no such file."""
        try:
            return self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(
                f"the signed heads {self.file} cannot be read: {error.strerror or error}",
                remedy="make it a readable file again, from a backup of the project where its content is lost",
            ) from error

    def newest(self) -> tuple[int, str] | None:
        """Number and hash of the newest event with a head that we signed, or None; damaged lines are passed over."""
        found = []
        for line in self.lines():
            try:
                head = read_head(line)
            except ValueError:
                continue
            if head is not None:
                found.append(head)
        for seq, hash_, signature in sorted(found, reverse=True):
            if self.verify(head_text(seq, hash_), signature):
                return seq, hash_
        return None

    def require_reached(self, hash_at: Callable[[int], str | None]) -> None:
        """Refuses to go on from a chain without the newest event that was signed.

        `hash_at(seq)` is the hash of the chain's event `seq`, None where there is no such event; it is called
        after the heads are read, as another process may be writing.

        Raises:
            LedgerError: the chain ends before that event or holds another in its place, or the key is gone.
        """
        newest = self.newest()
        if newest is None:
            return
        seq, hash_ = newest
        held = hash_at(seq)
        if held != hash_:
            what = "has no such event" if held is None else "holds another one in its place"
            raise LedgerError(
                f"event {seq} was signed in {self.file}, but the ledger {what}: its tail was cut or replaced",
                remedy="look with `rlback verify`; restore the database and the signed heads from the same backup",
            )

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

        held = self._held_key()
        if held is None and self.lines():
            # Another writer may have made the key and signed with it after our first look: heads come after the key.
            held = self._held_key()
            if held is None:
                raise LedgerError(
                    f"the signing key {self.key_file} is gone, but {self.file} holds heads signed with it",
                    remedy="restore the key from a backup of the project's state",
                )
        try:
            return Ed25519PrivateKey.from_private_bytes(self._new_key() if held is None else held)
        except ValueError:
            raise LedgerError(f"the signing key {self.key_file} is damaged", remedy="restore it from a backup") from None

    def _held_key(self) -> bytes | None:
        """What the key's file holds, or None where there is none."""
        try:
            return self.key_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(
                f"the signing key {self.key_file} cannot be read: {error.strerror or error}", remedy="restore it from a backup"
            ) from error

    def _new_key(self) -> bytes:
        """Makes a key and keeps it, unless another writer was quicker: then it is theirs."""
        self.key_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.key_file.with_name(f"{self.key_file.name}.{secrets.token_hex(8)}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, os.urandom(32))
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(temporary, self.key_file)  # the first writer wins; the others read its key
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        return self.key_file.read_bytes()
