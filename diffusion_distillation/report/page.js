// Sorts a table by the column whose heading is clicked: ascending, descending,
// then in its groups again.
for (const table of document.querySelectorAll('table.sortable')) {
  const groups = [...table.tBodies].map(body => [body, [...body.rows]]);
  const headings = [...table.tHead.rows[0].cells];

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ? Number(cell.dataset.value) : cell.innerText;
  };
  const compare = (a, b) => {
    if (a === '' || b === '') return 0;
    return typeof a === 'number' ? a - b : a.localeCompare(b);
  };

  const sort = (column, direction) => {
    for (const [body, rows] of groups) body.append(...rows);
    if (!direction) return;
    const rows = groups.flatMap(([, rows]) => rows);
    rows.sort((one, other) => {
      const [a, b] = [value(one, column), value(other, column)];
      // Rows without a figure stay at the end.
      return (a === '') - (b === '') || direction * compare(a, b);
    });
    groups[0][0].append(...rows);
  };

  headings.forEach((heading, column) => {
    const button = document.createElement('button');
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener('click', () => {
      const next = {ascending: 'descending', descending: null};
      const sorted = heading.ariaSort;
      const order = sorted in next ? next[sorted] : 'ascending';
      for (const other of headings) other.removeAttribute('aria-sort');
      if (order) heading.setAttribute('aria-sort', order);
      sort(column, {ascending: 1, descending: -1}[order]);
    });
  });
}
