// The table of hosts in a fleet's page: rows that are asked for, in the order of a column.
"use strict";
(() => {
  const body = document.querySelector("#hosts tbody");
  const rows = [...body.rows];
  const at = (name) => document.getElementById("hosts-" + name);
  const value = (row, column) => {
    const told = row.cells[column].dataset.value;
    return told === undefined ? row.cells[column].textContent : Number(told);
  };

  function choose() {
    const part = at("name").value.toLowerCase();
    const state = at("state").value;
    const least = (parseFloat(at("least").value) || 0) * 1e3;
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(part)
        || (state !== "" && row.dataset.state !== state)
        || Number(row.dataset.time) < least;
      shown += !row.hidden;
    }
    at("count").textContent = `${shown} of ${rows.length} hosts`;
  }

  function sort(head) {
    const column = head.cellIndex;
    // Names from a to z first, figures with the largest first; once more turns it round.
    const first = column ? "descending" : "ascending";
    const turned = head.getAttribute("aria-sort") === first;
    const way = turned ? (column ? "ascending" : "descending") : first;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", way);
    const sign = way === "ascending" ? 1 : -1;
    rows.sort((one, other) => {
      const [left, right] = [value(one, column), value(other, column)];
      return sign * (left < right ? -1 : left > right ? 1 : 0);
    });
    body.append(...rows);
  }

  for (const name of ["name", "state", "least"]) at(name).addEventListener("input", choose);
  at("form").addEventListener("reset", () => setTimeout(choose));
  at("form").addEventListener("submit", (event) => event.preventDefault());
  for (const head of document.querySelectorAll("#hosts thead th"))
    head.querySelector("button").addEventListener("click", () => sort(head));
  choose();
})();
