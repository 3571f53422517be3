"""What is written comes back whole, in any chunks, through rotations, and a full disk is survived."""

import itertools
import os
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.cloud.compute.logs import LogReader, read_all
from leptonai.cloud.compute.segments import MAX_LINE_BYTES, LogWriter, whole_utf8


def written(folder, *parts: tuple[bytes, bytes], **options):
    writer = LogWriter(str(folder), **options)
    for stream, data in parts:
        writer.write(stream, data)
    writer.close()
    return list(read_all(LogReader(folder)))


def test_lines_of_both_streams_with_times_that_rise(tmp_path):
    lines = written(tmp_path, (b"o", b"one\ntwo\n"), (b"e", b"oh\n"), (b"o", b"three"))
    assert [(line.stream, line.text, line.partial) for line in lines] == [
        ("stdout", "one", False),
        ("stdout", "two", False),
        ("stderr", "oh", False),
        ("stdout", "three", True),
    ]
    times = [line.time_ns for line in lines]
    assert times == sorted(set(times))


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=400), cuts=st.lists(st.integers(0, 1600), max_size=12))
def test_text_survives_any_chunking(tmp_path_factory, text, cuts):
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [(b"o", data[a:b]) for a, b in itertools.pairwise(edges)]
    assert "".join(map(str, written(tmp_path_factory.mktemp("log"), *parts))) == text


def test_a_long_line_is_cut_between_characters(tmp_path):
    line = "é" * MAX_LINE_BYTES  # two bytes each: a cut at a fixed place would halve one, if begun one byte later
    lines = written(tmp_path, (b"o", b"x" + line.encode() + b"\n"))
    assert len(lines) == 3 and all("\ufffd" not in part.text for part in lines)
    assert "".join(map(str, lines)) == "x" + line + "\n"


@given(text=st.text(min_size=1, max_size=5), missing=st.integers(0, 3))
def test_whole_utf8_is_the_longest_prefix_that_decodes(text, missing):
    data = text.encode()
    data = data[: len(data) - missing] or data
    end = whole_utf8(data)
    data[:end].decode()
    assert end == max(n for n in range(len(data) + 1) if _decodes(data[:n]))


def _decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_bytes_that_are_no_text_are_shown_and_lose_nothing_else(tmp_path):
    lines = written(tmp_path, (b"o", b"a\xff\xfeb\nnext\n"))
    assert [line.text for line in lines] == ["a\ufffd\ufffdb", "next"]


def test_rotation_drops_the_oldest_and_positions_stay_true(tmp_path):
    writer = LogWriter(str(tmp_path), segment_bytes=2000, keep=3)
    for number in range(300):
        writer.write(b"o", b"line %d\n" % number)
    first = list(read_all(LogReader(tmp_path)))
    assert len(os.listdir(tmp_path)) == 3
    assert [line.text for line in first] == [f"line {n}" for n in range(300 - len(first), 300)]
    middle = first[len(first) // 2]
    writer.write(b"o", b"after\n")
    again = list(read_all(LogReader(tmp_path, middle.offset)))
    assert [line.text for line in again] == [line.text for line in first[len(first) // 2 + 1 :]] + ["after"]
    writer.close()


def test_a_reader_behind_a_rotation_goes_on_with_the_oldest_there_is(tmp_path):
    writer = LogWriter(str(tmp_path), segment_bytes=500, keep=2)
    writer.write(b"o", b"first\n")
    reader = LogReader(tmp_path)
    assert [line.text for line in reader.read()] == ["first"]
    for number in range(100):
        writer.write(b"o", b"line %d\n" % number)
    rest = [line.text for line in read_all(reader)]
    assert rest[-1] == "line 99" and len(rest) < 100
    writer.close()


def test_from_and_to_a_time(tmp_path):
    lines = written(tmp_path, (b"o", b"".join(b"%d\n" % n for n in range(200))), segment_bytes=600, keep=100)
    for begin, end in ((0, 10), (17, 18), (50, 150), (199, 200)):
        until = lines[end].time_ns if end < 200 else None
        reader = LogReader(tmp_path, since_ns=lines[begin].time_ns, until_ns=until)
        assert [line.text for line in read_all(reader)] == [str(n) for n in range(begin, end)]


def test_a_full_disk_loses_output_says_so_and_never_a_half_record(tmp_path):
    code = """
import resource, sys
from leptonai.cloud.compute.segments import LogWriter
writer = LogWriter(sys.argv[1])
writer.write(b"o", b"before\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
for n in range(50):
    writer.write(b"o", b"lost %d\\n" % n)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write(b"o", b"after\\n")
writer.close()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    lines = [line.text for line in read_all(LogReader(tmp_path))]
    assert lines[0] == "before" and lines[-1] == "after"
    assert "bytes of output were lost: the disk was full" in lines[-2]
    kept = [line for line in lines if line.startswith("lost ")]
    assert kept == [f"lost {n}" for n in range(len(kept))] and len(kept) < 50
