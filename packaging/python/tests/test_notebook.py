"""A real notebook, executed by nbclient with its directory in a real mount."""

from __future__ import annotations

import pytest

from sailvol import Volume

nbformat = pytest.importorskip("nbformat", reason="the extra `notebook` is not installed")
nbclient = pytest.importorskip("nbclient")


def run(machine, *cells: str, fails: bool = False):
    """Executes the cells in the mount; the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(machine.shared)}},
        allow_errors=fails,
    )
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def html_of(outputs) -> str:
    return "".join(o["data"].get("text/html", "") for o in outputs if o.output_type == "execute_result")


def text_of(outputs) -> str:
    # A program has a terminal there and shows a bar; how its output is cut into pieces is the kernel's affair.
    return "".join(o.text for o in outputs if o.output_type == "stream")


def test_a_notebook_commits_reloads_and_looks(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    outputs = run(
        machine,
        "%load_ext sailvol\nopen('result.txt', 'w').write('42')",
        "%sailvol diff",
        "%sailvol commit -m 'from a notebook'",
        "open('more.txt', 'w').write('x')",
        "!sailvol commit -m 'from its shell'",
        "%sailvol status",
        "done = %sailvol commit\nprint('nothing' if not done else done.record)",
        "%sailvol reload --if-clean",
        "%sailvol log -n 2",
        "open('aside.txt', 'w').write('x')\naside = %sailvol reload",
        "%sailvol stash list",
        "%sailvol stash restore {aside.stash.id}",
        "import os\nprint(os.path.exists('aside.txt'))",
        "back = %sailvol reload --to -1\nback",
        "%sailvol stash drop {back.stash.id}",
        "%sailvol stash",
    )
    assert "/result.txt" in html_of(outputs[1])
    assert "record 1" in html_of(outputs[2])
    # The bar was displayed, and is empty now.
    bars = [o for o in outputs[2] if o.output_type == "display_data"]
    assert [bar["data"]["text/html"] for bar in bars] == [""]
    assert "committed record 2" in text_of(outputs[4])
    assert "record 2" in html_of(outputs[5]) and "uncommitted" in html_of(outputs[5])
    assert text_of(outputs[6]) == "nothing\n"
    assert "record" in html_of(outputs[7])
    assert "from its shell" in html_of(outputs[8]) and "from a notebook" in html_of(outputs[8])
    assert "2" in html_of(outputs[10]) or "stash" in html_of(outputs[10])
    assert text_of(outputs[12]) == "True\n"
    assert "record" in html_of(outputs[13])
    assert "(none)" in html_of(outputs[15]), "all are gone"
    assert volume.status().dirty == 0
    assert [e.path for e in volume.listdir()] == ["/more.txt", "/result.txt"]


def test_a_failure_stops_the_cell_with_its_message(machine):
    volume = Volume.get("demo", mint_if_missing=True).mount(machine.shared)
    outputs = run(
        machine,
        "%load_ext sailvol",
        "open('x', 'w').close()\n%sailvol reload --if-clean\nprint('not reached')",
        "%sailvol comit",
        "%sailvol commit --help",
        fails=True,
    )
    [error] = [o for o in outputs[1] if o.output_type == "error"]
    assert error.ename == "Refused" and "local changes" in "".join(error.traceback)
    assert len(error.traceback) == 1, "no stack of ours"
    assert "not reached" not in str(outputs[1])
    assert outputs[2][0].ename == "UsageError"
    assert "--dry-run" in text_of(outputs[3])
    assert volume.status().dirty == 1
