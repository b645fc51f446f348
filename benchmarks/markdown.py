"""Markdown tables of the generated texts."""

from diffusion_distillation.report import labels


def table(heading, *columns, align=None):
  """Returns a Markdown table, figures to the right."""
  align = align or 'l' + 'r' * (len(heading) - 1)
  rule = [{'l': '---', 'r': '---:'}[side] for side in align]
  lines = [heading, rule, *zip(*columns, strict=True)]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def figures(rows, key, error=None):
  """Returns a figure of rows as texts, '' where a row does not have it."""
  if error is None:
    return labels.numbers([row.get(key) for row in rows])
  # Each figure has the decimals that its error allows.
  return [
    labels.numbers([row.get(key)], 2, [row.get(error)])[0] for row in rows
  ]
