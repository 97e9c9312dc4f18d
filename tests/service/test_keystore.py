"""Private keys are readable by their owner and nobody else."""

import os
from pathlib import Path

import pytest

from service import keystore
from tests.conftest import seeded
from verifier.refused import Refused

KEY = keystore.generate("seal", "http://127.0.0.1:8702", seeded("key"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    keystore.make_private_directory(path)
    return path


def test_a_key_comes_back_as_it_was_saved(directory: Path) -> None:
    keystore.save(directory / "seal.key", KEY)
    assert keystore.load(directory / "seal.key", "seal").kid == KEY.pair().kid
    assert (directory / "seal.key").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_only_uses_that_ask_for_it_get_a_second_half() -> None:
    assert KEY.pair().public.ml_dsa_44 is not None
    assert keystore.generate("token", "me", seeded("token")).pair().public.ml_dsa_44 is None


def test_a_key_is_never_overwritten(directory: Path) -> None:
    keystore.save(directory / "seal.key", KEY)
    with pytest.raises(FileExistsError):
        keystore.save(directory / "seal.key", KEY)


@pytest.mark.parametrize(("file", "folder"), [(0o640, 0o700), (0o604, 0o700), (0o600, 0o750), (0o600, 0o701)])
def test_a_key_that_others_could_read_is_refused(directory: Path, file: int, folder: int) -> None:
    keystore.save(directory / "seal.key", KEY)
    (directory / "seal.key").chmod(file)
    directory.chmod(folder)
    with pytest.raises(Refused) as refused:
        keystore.load(directory / "seal.key", "seal")
    assert refused.value.code == "loose-mode"


def test_a_link_is_not_followed(directory: Path) -> None:
    keystore.save(directory / "seal.key", KEY)
    (directory / "link.key").symlink_to(directory / "seal.key")
    with pytest.raises(Refused) as refused:
        keystore.load(directory / "link.key", "seal")
    assert refused.value.code == "no-key"


def test_a_key_for_another_use_is_refused(directory: Path) -> None:
    keystore.save(directory / "seal.key", KEY)
    with pytest.raises(Refused) as refused:
        keystore.load(directory / "seal.key", "grant")
    assert refused.value.code == "wrong-use"


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"use":"seal","owner":"me","ed25519_seed":"AAAA"}'])
def test_a_broken_key_file_is_refused(directory: Path, content: bytes) -> None:
    keystore.write_private(directory / "seal.key", content)
    with pytest.raises(Refused) as refused:
        keystore.load(directory / "seal.key", "seal")
    assert refused.value.code == "bad-key"


def test_a_sealed_key_opens_with_its_passphrase_only(directory: Path) -> None:
    keystore.save(directory / "root.key", KEY, passphrase=b"correct horse", random=os.urandom)
    assert KEY.ed25519_seed.encode() not in (directory / "root.key").read_bytes()
    assert keystore.load(directory / "root.key", "seal", passphrase=b"correct horse").kid == KEY.pair().kid
    for wrong in (b"battery staple", None):
        with pytest.raises(Refused) as refused:
            keystore.load(directory / "root.key", "seal", passphrase=wrong)
        assert refused.value.code == "bad-passphrase"


def test_a_passphrase_is_read_without_the_newline_of_an_editor(directory: Path) -> None:
    keystore.write_private(directory / "passphrase", b"correct horse\n")
    assert keystore.read_passphrase(directory / "passphrase") == b"correct horse"
