"""The frame of the benchmarks, around a suite that measures nothing."""

import json
import sys
import types

import pytest

from benchmarks import __main__ as benchmarks


def test_a_run_prints_a_table_and_adds_a_line(tmp_path, monkeypatch, capsys):
  suite = types.ModuleType('benchmarks.nothing')
  suite.rows = lambda: [
    {'what': 'one', 'images/s': 1234.56},
    {'what': 'a dozen', 'images/s': 12},
  ]
  monkeypatch.setitem(sys.modules, 'benchmarks.nothing', suite)
  monkeypatch.setattr(benchmarks, 'SUITES', ('nothing',))
  monkeypatch.setattr(benchmarks, '__file__', str(tmp_path / '__main__.py'))
  monkeypatch.setattr(sys, 'argv', ['benchmarks', '--suite=nothing'])
  for _ in range(2):
    benchmarks.main()
  assert capsys.readouterr().out.splitlines()[:3] == [
    'what     images/s',
    'one      1,234.6',
    'a dozen  12',
  ]
  lines = (tmp_path / 'results' / 'nothing.jsonl').read_text().splitlines()
  assert len(lines) == 2
  result = json.loads(lines[1])
  assert result['rows'] == suite.rows()
  assert 'jax' in result['versions'] and result['hardware']['cores'] >= 1


def test_an_unknown_suite_names_the_known_ones(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['benchmarks', '--suite=fly'])
  with pytest.raises(SystemExit):
    benchmarks.main()
  assert 'input' in capsys.readouterr().err
