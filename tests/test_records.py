"""The run directory: atomic files, tolerant reading, strict writing."""

import gzip
import json
import os

import pytest

from durotaxis import records
from durotaxis.records import RecordError, RunDirectory


def make_run(path):
    return RunDirectory.create(path, "run: {seed: 1}\n", {"seed": 1})


def test_new_run_has_config_and_provenance(tmp_path):
    run = make_run(tmp_path / "a" / "b")
    assert run.config_text == "run: {seed: 1}\n"
    assert json.loads((run.path / records.PROVENANCE).read_text()) == {"seed": 1}
    assert run.checkpoints.is_dir()
    assert not run.is_done
    assert RunDirectory.open(run.path) == run


def test_directory_in_use_is_refused_untouched(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(RecordError, match=r"already holds a run .*config.yaml.*choose another run.directory"):
        RunDirectory.create(run.path, "other", {})
    assert run.config_text == "run: {seed: 1}\n"


def test_directory_with_only_metrics_is_in_use(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RecordError, match=r"metrics\.jsonl"):
        make_run(tmp_path)


def test_unwritable_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write .*choose another"):
        make_run(tmp_path / "file" / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_open_refuses_what_is_no_run(tmp_path):
    with pytest.raises(RecordError, match=r"not a run directory: it has no config\.yaml"):
        RunDirectory.open(tmp_path)


def test_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "x"
    records.write_atomic(path, "old")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_is_replaced_not_overwritten(tmp_path):
    records.write_atomic(tmp_path / "x", "old")
    os.link(tmp_path / "x", tmp_path / "reader")
    records.write_atomic(tmp_path / "x", "new")
    assert (tmp_path / "reader").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_write_into_a_missing_directory_is_one_clear_error(tmp_path):
    with pytest.raises(RecordError, match="cannot write"):
        records.write_atomic(tmp_path / "no" / "x", "text")


def test_rows_are_on_disk_at_once_and_read_back(tmp_path):
    path = tmp_path / "free.jsonl"
    with records.Appender(path) as file:
        file.append({"a": 1, "b": None, "c": [0.5, 1.5]})
        assert records.read_jsonl(path) == [{"a": 1, "b": None, "c": [0.5, 1.5]}]
        file.append({"a": 2})
    assert len(records.read_jsonl(path)) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [1.0, float("nan")], {"x": float("-inf")}])
def test_not_finite_is_refused_by_name(tmp_path, bad):
    with records.Appender(tmp_path / "free.jsonl") as file:
        with pytest.raises(RecordError, match="entropy is not a finite number"):
            file.append({"step": 1, "entropy": bad})
        file.append({"step": 1, "entropy": None})
    assert records.read_jsonl(tmp_path / "free.jsonl") == [{"step": 1, "entropy": None}]


def test_column_outside_the_schema_is_refused(tmp_path):
    with records.Appender(tmp_path / records.METRICS) as file:
        file.append({"step": 1, "term/progress": 0.1, "gradient_norm/ptm:a": 0.2})
        with pytest.raises(RecordError, match=r"not in records\.SCHEMA: losss"):
            file.append({"step": 1, "losss": 0.1})


def test_cut_last_line_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a":1}\n{"a":2}\n{"a":')
    assert records.read_jsonl(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(("text", "line"), [('{"a":1}\n{"a":\n{"a":3}\n', 2), ('{"a":1}\n{"a":\n', 2)])
def test_damage_elsewhere_is_an_error_with_its_line(tmp_path, text, line):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match=rf"x.jsonl:{line}: not a JSON object"):
        records.read_jsonl(path)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        records.read_jsonl(tmp_path / "no.jsonl")


def test_cut_after_keeps_earlier_rows(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"iteration": i}) + "\n" for i in range(5)) + '{"iter')
    assert records.cut_after(path, "iteration", 2) == 2
    assert path.read_text() == '{"iteration":0}\n{"iteration":1}\n{"iteration":2}\n'
    assert records.cut_after(tmp_path / "no.jsonl", "iteration", 2) == 0


def test_run_goes_on_from_an_iteration(tmp_path):
    run = make_run(tmp_path / "run")
    for name in (records.METRICS, records.EPISODES):
        with run.appender(name) as file:
            for i in range(1, 4):
                file.append({"iteration": i})
    run.mark_done({"step": 3})
    assert run.is_done
    run.cut_after(1)
    assert not run.is_done
    assert run.read(records.METRICS) == run.read(records.EPISODES) == [{"iteration": 1}]


def test_trace_round_trip_is_reproducible(tmp_path):
    rows = [{"step": i, "nodes": [[0.5, 1.0]]} for i in range(3)]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        records.write_trace(tmp_path / name, rows)
    assert records.read_jsonl(tmp_path / "a.jsonl.gz") == rows
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_truncated_trace_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n' * 1000)[:-12])
    with pytest.raises(RecordError, match="cannot be read"):
        records.read_jsonl(path)


def test_schema_table_names_every_column():
    table = records.schema_table()
    for file, columns in records.SCHEMA.items():
        assert f"### `{file}`" in table
        for column in columns:
            assert f"| `{column.name}` | {column.unit} | {column.meaning} |" in table
        assert len({column.name for column in columns}) == len(columns)


def test_pattern_columns_match_what_they_stand_for():
    column = records.Column("term/<name>", "1", "")
    assert column.matches("term/progress")
    assert not column.matches("term/")
    assert not column.matches("terms/progress")


def test_wall_clock_columns_are_dropped():
    row = {"step": 1, "elapsed_s": 2.0, "kl": 0.1, "host_memory_mb": 5.0}
    assert records.without_wall_clock(records.METRICS, row) == {"step": 1, "kl": 0.1}
