// Tables that can be sorted and filtered. A cell's data-value is the whole number; what was not measured stays last.
"use strict";
(() => {
  const key = (row, column) => row.querySelector(`[data-column="${column}"]`)?.dataset.value ?? "";

  function sort(table, head) {
    const number = head.classList.contains("num");
    const turned = { ascending: "descending", descending: "ascending" }[head.getAttribute("aria-sort")];
    const order = turned ?? head.dataset.first ?? "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const column = head.dataset.sort;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, place) => ({ row, place, value: key(row, column) }));
    rows.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "") || a.place - b.place;
      const difference = number ? Number(a.value) - Number(b.value) : a.value.localeCompare(b.value, "en", { numeric: true });
      return sign * difference || a.place - b.place;
    });
    body.append(...rows.map(({ row }) => row));
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
  }

  function filter(form, table) {
    const rows = [...table.tBodies[0].rows];
    const words = form.elements.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase() + " " + row.dataset.case.toLowerCase();
      const keep = words.every((word) => text.includes(word)) && wanted.every((one) => row.dataset[one.name] === one.value);
      row.hidden = !keep;
      shown += keep;
    }
    form.querySelector("output").value = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const head of table.querySelectorAll("th[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => sort(table, head));
    }
  }
  for (const form of document.querySelectorAll("form.filter")) {
    const table = document.getElementById(form.dataset.table);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => filter(form, table));
    form.addEventListener("reset", () => setTimeout(() => filter(form, table)));
    filter(form, table);
  }
  const folded = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = folded(); for (const one of opened) one.open = true; });
  addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
})();
