"""Selects reference numbers of objectives: python FILE REFERENCE.

REFERENCE is a folder of numbers that were made with the original programs; see
tests/data/README.md.
"""

import json
import pathlib
import sys

import originals

FAMILIES = 'consistency', 'improved_ct', 'tract'
LOSSES = [
  'losses_10_power2',
  'losses_232_power2',
  'losses_10_power1',
  'sliced_score_matching',
]


def main(reference):
  """Writes objectives.json and objectives.npz."""
  names = {'ncsn': LOSSES}
  for family in FAMILIES:
    described = json.loads((reference / f'{family}.json').read_text())
    names[family] = [case['name'] for case in described['cases']]
  cases, selected = [], {}
  for family, case, arrays in originals.chosen(reference, names):
    at = {key: f'{family}/{path}' for key, path in case['arrays'].items()}
    cases.append({**case, 'family': family, 'arrays': at})
    selected |= {at[key]: array for key, array in arrays.items()}
  originals.write('objectives', cases, selected)


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
