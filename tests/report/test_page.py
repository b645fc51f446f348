import html.parser
import json
import re

import numpy as np
import pytest

from diffusion_distillation.report import page
from tests.report import examples

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=y> "\'&{}$'
VOID = {'meta', 'img'}


class Parser(html.parser.HTMLParser):
  """Reads a page, and checks that every opened element is closed."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.handle_startendtag(tag, attributes)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append(tag)
    self.attributes.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)

  def all(self, tag):
    return [attributes for name, attributes in self.attributes if name == tag]


def make(report, **changes):
  images, real = examples.digits_images(report)
  options = {
    'row_images': images,
    'real_images': real,
    'entries': examples.entries(report),
  }
  return page.make_page(report, **(options | changes))


@pytest.fixture(scope='module')
def digits():
  return make(examples.digits())


@pytest.mark.parametrize(
  'name', ['digits', 'imagenet', 'samplers', 'failed', 'unmeasured']
)
def test_a_page_is_well_formed_and_asks_for_nothing(name):
  text = make(getattr(examples, name)())
  parsed = Parser(text)
  assert parsed.all('html') == [{'lang': 'en'}]
  assert parsed.tags.count('title') == parsed.tags.count('h1') == 1
  for tag, attributes in parsed.attributes:
    assert tag not in ('link', 'iframe', 'object', 'base', 'form')
    for key in ('src', 'href', 'xlink:href', 'srcset', 'action'):
      value = attributes.get(key, '#')
      assert value.startswith(('#', 'data:image/png;base64,')), value
  assert 'http' not in text.replace('http-equiv', '')
  assert not re.search(r'url\((?!#)|@import', text)


def test_ids_are_unique(digits):
  ids = [a['id'] for _, a in Parser(digits).attributes if 'id' in a]
  assert len(set(ids)) == len(ids) > 0


def test_a_page_is_made_from_report_json_alone():
  report = examples.digits()
  assert make(json.loads(json.dumps(report))) == make(report)


def test_every_picture_is_described_by_a_sentence(digits):
  parsed = Parser(digits)
  pictures = [image['alt'] for image in parsed.all('img')]
  curves = [svg['aria-label'] for svg in parsed.all('svg')]
  # 26 rows and the training images; quality against steps and seconds, the
  # teacher, the students.
  assert (len(pictures), len(curves)) == (27, 4)
  for text in pictures + curves:
    assert text[0].isupper() and text[-1] == '.' and ' ' in text
  assert 'Samples of the student, stochastic, 2 steps.' in pictures
  assert 'student, DDIM: 1.46 ± 0.06 at 1 and 1.20 ± 0.05 at 32' in curves[0]


def test_tables_say_what_their_cells_are(digits):
  parsed = Parser(digits)
  assert parsed.tags.count('table') == 3
  for tag in ('caption', 'thead'):
    assert parsed.tags.count(tag) == 3
  assert all(cell['scope'] in ('col', 'row') for cell in parsed.all('th'))


def test_the_reference_is_the_first_row_and_the_best_figures_are_marked(digits):
  table = digits[digits.index('<table class="sortable">') :]
  first = table[table.index('<tbody>') :].partition('</tr>')[0]
  assert 'teacher, DDIM <span class="badge">reference</span>' in first
  assert 'data-value="1.19"' in first
  best = set(re.findall('<span class="best">([^<]*)', table))
  # Frechet distance, held-out, classifier score, precision, recall, KID; none
  # of steps, NFE, ratio and speed.
  assert best == {
    *('0.96 ± 0.04', '2.06', '8.65', '0.719', '0.910'),
    '\N{MINUS SIGN}0.000160',
  }
  # Three samplers have that precision.
  assert table.count('<span class="best">0.719') == 3


def test_rows_on_the_pareto_fronts_are_marked():
  report = examples.digits()
  report['rows'] = [
    row | {'images_per_second': 100 if row['num_steps'] == 1 else 1000}
    for row in report['rows']
    if row['num_steps'] <= 2
  ]
  text = make(report, row_images={})
  table = text[text.index('<table class="sortable">') :].partition('</table>')
  marked = re.findall(
    r'scope="row">([^<]*) <span class="badge">([^<]*)<', table[0]
  )
  # One step of the student has the smallest NFE, two of its stochastic sampler
  # the smallest distance and, of all, the least time.
  assert marked == [
    ('student, DDIM', 'Pareto, NFE'),
    ('student, stochastic', 'Pareto, NFE and time'),
  ]


def test_the_figures_of_a_comparison_are_explained():
  text = make(examples.samplers())
  for said in ('0.05 for new data', 'DDIM in 1,024 steps', 'are faint'):
    assert said in text
  assert 'teacher, UniPC, order 3, Karras levels, sigma 0.1 to 20' in text


def test_figures_of_a_column_have_the_same_decimals(digits):
  table = digits[digits.index('<table class="sortable">') :]
  for row in table.partition('</table>')[0].split('<tr')[2:]:
    cells = re.findall(r'<td[^>]*>(?:<span[^>]*>)?([^<]*)', row)
    assert re.fullmatch(r'\d+\.\d\d ± \d\.\d\d', cells[2]), row
    assert re.fullmatch('[\N{MINUS SIGN}]?0\\.\\d{6}', cells[-1]), row


def test_samples_stand_under_their_number_of_steps(digits):
  table = digits[digits.index('<table class="samples">') :]
  table = table.partition('</table>')[0]
  assert re.findall('<th scope="col">([^<]*)', table) == [
    'sampler',
    '1 step',
    *(f'{2**i} steps' for i in range(1, 7)),
  ]
  stochastic = table.split('student, stochastic</th>')[1].partition('</tr>')[0]
  cells = stochastic.split('<td>')[1:]
  assert cells[0] == '</td>' and all('<img' in cell for cell in cells[1:])
  assert '<small>1.32</small>' in cells[1]


def test_a_failed_run_says_so_before_its_result():
  text = make(examples.failed())
  body = text[text.index('<body>') :]
  assert body.index('This run failed:') < body.index('class="result"')
  assert 'not distinguishable' in body


def test_an_unmeasured_run_has_pictures_and_says_how_to_measure():
  text = make(examples.unmeasured())
  parsed = Parser(text)
  assert '<code>--mode=evaluate</code>' in text
  assert len(parsed.all('img')) == 27 and 'sortable">' not in text
  assert 'None' not in text


def test_a_run_without_anything_has_a_page():
  report = examples.unmeasured() | {
    'rows': [],
    'rounds': [],
    'hardware': None,
    'parameters': None,
    'date': None,
    'commit': None,
    'command': None,
    'versions': {},
    'compilations': {},
  }
  text = page.make_page(report, row_images={})
  Parser(text)
  assert '<img' not in text and '<svg' not in text and 'None' not in text


def test_text_in_a_report_is_escaped():
  def poison(value):
    if isinstance(value, dict):
      return {poison(k) if k == 'x' else k: poison(v) for k, v in value.items()}
    if isinstance(value, list):
      return [poison(v) for v in value]
    return HOSTILE + value if isinstance(value, str) else value

  report = examples.digits()
  kept = [(row['network'], row['round']) for row in report['rows']]
  report = poison(report | {'failure': 'x', 'config': {'x': 'x'}})
  report['metric']['label'] = '<b>'
  for row, (network, name) in zip(report['rows'], kept, strict=True):
    row |= {'network': network, 'round': name}
  entries = [{'stage': '<script>', 'step': 1, 'loss': 2.0}]
  text = page.make_page(report, row_images={}, entries=entries)
  parsed = Parser(text)
  assert parsed.tags.count('script') == 1 and 'img' not in parsed.tags
  assert not any('onerror' in attributes for _, attributes in parsed.attributes)
  # The title, the heading, the failure, the figure of a training, ...
  assert sum(HOSTILE in text for text in parsed.text) > 30


def test_checksums_are_folded_away_with_the_protocol_and_the_config(digits):
  visible = re.sub('<details>.*?</details>', '', digits, flags=re.DOTALL)
  assert digits.count('<details>') == 2
  for folded in ('4be1c70a', 'class_conditional', 'seeds 0 to'):
    assert folded in digits and folded not in visible
  for shown in ('2026-01-17', '6100ecc', 'AMD EPYC, 2 cores', '139,842'):
    assert shown in visible


def test_trainings_have_their_distance_beside_them():
  report = examples.digits()
  for row in report['rows']:
    if row['round'] == 'student_00002' and row['num_steps'] == 2:
      row['frechet_distance'] = 1234.5
  (line,) = (
    line
    for line in make(report).splitlines()
    if '<code>student_00002</code></th><td>' in line
  )
  assert '<td>1,234.50</td>' in line


def test_trainings_have_curves_a_table_and_a_sum(digits):
  assert '<code>student_00001</code></th><td>progressive</td>' in digits
  assert '<td>7,300</td><td>0:03:40</td>' in digits
  assert 'train_step was compiled once; distill_step was compiled' in digits


def test_every_method_has_its_curves():
  report = examples.digits()
  for each in report['rounds'][1:]:
    each['name'] = each['name'].replace('student_0000', 'tract_0000')
  entries = [
    {'stage': each['name'], 'step': step, 'loss': 1.0 * step}
    for each in report['rounds']
    for step in (1, 2)
  ]
  text = make(report, entries=entries)
  for who in ("teacher's", "students'", "tract's"):
    assert text.count(f'The {html.escape(who)} loss while training.') > 0


def test_a_training_that_failed_has_a_curve():
  report = examples.failed()
  entries = [
    {'stage': 'student_00004', 'step': step, 'loss': 1.0 * step}
    for step in (1, 2)
  ]
  assert 'student_00004</text>' in make(
    report, entries=[*examples.entries(report), *entries]
  )


@pytest.mark.parametrize(('size', 'limit'), [(8, 6_000), (64, 70_000)])
def test_a_page_is_not_larger_than_documented(size, limit):
  report = examples.imagenet()
  images, real = examples.random_images(report, size)
  text = make(report, row_images=images, real_images=real)
  allowance = 150_000 + 10 * limit  # curves and text; training images
  assert len(text) < len(report['rows']) * limit + allowance


def test_large_images_are_reduced_and_grey_ones_stay_grey():
  report = examples.digits()
  row = report['rows'][0]
  key = examples.identity(row)
  for channels in (1, 3):
    images = np.full((4, 256, 192, channels), 200, np.uint8)
    text = make(report, row_images={key: images}, real_images=None)
    (image,) = Parser(text).all('img')
    # Two columns of 48 and two rows of 64 pixels, with gaps of 2.
    assert (image['width'], image['height']) == ('98', '130')
