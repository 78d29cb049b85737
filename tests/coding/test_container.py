"""The envelope, its fields, and writing a file whole or not at all."""

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.coding import Reader, Writer, container, open_sealed, seal, write_atomic
from featherweight.core.errors import FormatError


def test_sealed_bytes():
    assert seal(b"body").hex() == "66777401626f6479" + zlib.crc32(b"fwt\x01body").to_bytes(4, "little").hex()
    assert open_sealed(seal(b"body")) == b"body"
    assert open_sealed(seal(b"")) == b""


@given(st.binary(max_size=100))
def test_seal_round_trip(body):
    assert open_sealed(seal(body)) == body


def resealed(data):
    return data + zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "too short"),
        (b"fw", "too short"),
        (b"fwt\x01\0\0\0", "too short"),
        (b"PK\x03\x04 a zip file", "not a .fwt file"),
        (b"P", "not a .fwt file"),
        (resealed(b"fwt\x02body"), "written by a newer Featherweight: upgrade"),
        (b"fwt\xff newer, and with another checksum", "written by a newer Featherweight: upgrade"),
        (resealed(b"fwt\x00body"), "version 0 does not exist"),
        (seal(b"body")[:-1] + b"\0", "checksum"),
        (seal(b"a longer body")[:-3], "checksum"),
    ],
)
def test_each_kind_of_damage_has_its_message(data, message):
    with pytest.raises(FormatError, match=message):
        open_sealed(data)


def test_every_bit_flip_is_found():
    data = seal(b"some body")
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            open_sealed(bytes(damaged))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("unsigned"), st.integers(0, 2**64 - 1)),
            st.tuples(st.just("signed"), st.integers(-(2**63), 2**63 - 1)),
            st.tuples(st.just("blob"), st.binary(max_size=300)),
            st.tuples(st.just("text"), st.text(max_size=50)),
        )
    )
)
def test_fields_round_trip(fields):
    writer = Writer()
    for kind, value in fields:
        getattr(writer, kind)(value)
    reader = Reader(writer.finish())
    assert [getattr(reader, kind)() for kind, _ in fields] == [value for _, value in fields]
    reader.finish()


def written(kind, value):
    writer = Writer()
    getattr(writer, kind)(value)
    return writer.finish().hex()


def test_field_bytes():
    assert written("unsigned", 300) == "ac02"
    assert written("unsigned", 2**64 - 1) == "ff" * 9 + "01"
    assert [written("signed", value) for value in (0, -1, 1, -2)] == ["00", "01", "02", "03"]
    assert written("signed", -(2**63)) == "ff" * 9 + "01"
    assert written("text", "é") == "02c3a9"


def test_numbers_out_of_range():
    for kind, value in [("unsigned", -1), ("unsigned", 2**64), ("signed", 2**63), ("signed", -(2**63) - 1)]:
        with pytest.raises(ValueError, match="64-bit"):
            written(kind, value)


@pytest.mark.parametrize(
    "kind, data, message",
    [
        ("unsigned", "", "ends inside"),
        ("unsigned", "80", "ends inside"),
        ("unsigned", "ff" * 9 + "02", "64 bits"),
        ("unsigned", "80" * 10 + "00", "64 bits"),
        ("unsigned", "8000", "padded"),
        ("signed", "ff", "ends inside"),
        ("blob", "0261", "past the end"),
        ("blob", "ff" * 9 + "01", "past the end"),
        ("text", "02c3", "past the end"),
        ("text", "01c3", "UTF-8"),
    ],
)
def test_damaged_fields(kind, data, message):
    with pytest.raises(FormatError, match=message):
        getattr(Reader(bytes.fromhex(data)), kind)()


@given(st.binary(max_size=40), st.lists(st.sampled_from(["unsigned", "signed", "blob", "text"]), max_size=8))
def test_any_bytes_give_fields_or_a_format_error(data, kinds):
    reader = Reader(data)
    try:
        for kind in kinds:
            getattr(reader, kind)()
        reader.finish()
    except FormatError:
        pass


def test_left_over_fields():
    reader = Reader(b"\1\2")
    assert reader.unsigned() == 1
    with pytest.raises(FormatError, match="1 bytes are left"):
        reader.finish()


def test_write_atomic(tmp_path):
    path = tmp_path / "model.fwt"
    write_atomic(path, b"first")
    write_atomic(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["model.fwt"]


def test_write_atomic_gives_usual_permissions(tmp_path):
    write_atomic(tmp_path / "new", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").chmod(0o640)
    write_atomic(tmp_path / "plain", b"x")
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, step, error, exists):
    path = tmp_path / "model.fwt"
    if exists:
        path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(container.os, step, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    assert os.listdir(tmp_path) == (["model.fwt"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "model.fwt", b"")
