"use strict";
// Sorting, filters, choice of dataset and attack, explanations. Without this script everything is shown at once.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const collator = new Intl.Collator("en", { numeric: true });

  // --- one dataset at a time; the address names it, so that links and "back" work
  const sections = all(".dataset");
  const named = () => location.hash.slice(1).split("?")[0];
  const query = () => location.hash.split("?")[1] || "";
  function showDataset(focus) {
    const anchor = document.getElementById(named());
    const chosen = (anchor && anchor.closest(".dataset")) || document.querySelector(".dataset.on") || sections[0];
    for (const section of sections) section.classList.toggle("on", section === chosen);
    for (const link of all("nav a")) {
      if (chosen && link.hash === "#" + chosen.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (focus && anchor === chosen && chosen) chosen.querySelector("h2").focus();
    if (anchor && anchor !== chosen) anchor.scrollIntoView();
  }
  addEventListener("hashchange", () => {
    showDataset(true);
    recall();
  });
  showDataset(false);

  // --- sorting: numbers by their first number, missing ones last in both directions
  function keyOf(row, column, numeric) {
    const text = row.cells[column].textContent.trim();
    if (!numeric) return text;
    const value = parseFloat(text);
    return Number.isNaN(value) ? null : value;
  }
  function sort(header) {
    const table = header.closest("table");
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = header.classList.contains("n");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [keyOf(row, header.cellIndex, numeric), row]);
    const order = numeric ? (a, b) => a - b : collator.compare;
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return down ? order(b, a) : order(a, b);
    });
    body.append(...rows.map(([, row]) => row));
  }
  for (const header of all(".board thead th")) {
    header.querySelector("button").addEventListener("click", () => sort(header));
  }

  // --- filters: a row stays when every chosen value is its own and its model and attack hold every word of the search;
  // the address keeps them behind a question mark, so that a view can be linked: #d-hippocampus?search=mamba&budget=...
  const views = new Map();
  function recall() {
    const [shown, wanted] = [document.getElementById(named()), new URLSearchParams(query())];
    const view = shown && views.get(shown.closest(".dataset"));
    if (!view || !query()) return;
    for (const control of view.controls) control.value = wanted.get(control.dataset.key) || "";
    for (const select of view.controls) if (select.selectedIndex < 0) select.value = ""; // no such choice
    view.apply();
    view.bar.scrollIntoView();
  }
  for (const section of sections) {
    const controls = section.querySelector(".filters");
    const table = section.querySelector(".board");
    const selects = all("select, input", controls);
    const column = {};
    for (const header of table.tHead.rows[0].cells) column[header.dataset.key] = header.cellIndex;
    const valueOf = (row, key) => (key in column ? row.cells[column[key]].textContent : row.dataset[key]);
    const words = [...table.tBodies[0].rows].map((row) => {
      const [model, attack] = [row.cells[column.model], row.cells[column.attack]];
      return [row, `${model.textContent} ${attack.textContent} ${attack.title}`.toLowerCase()];
    });
    function remember() {
      if (!section.classList.contains("on")) return; // another dataset was chosen meanwhile
      const state = new URLSearchParams();
      for (const select of selects) if (select.value) state.set(select.dataset.key, select.value);
      const text = state.toString();
      history.replaceState(null, "", `#${section.id}${text && "?" + text}`);
    }
    function apply() {
      const search = controls.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = selects.filter((select) => select.value && select.type !== "search");
      let shown = 0;
      for (const [row, text] of words) {
        row.hidden =
          search.some((word) => !text.includes(word)) ||
          chosen.some((select) => valueOf(row, select.dataset.key) !== select.value);
        shown += !row.hidden;
      }
      controls.querySelector(".count").textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    }
    let typed = 0;
    controls.addEventListener("input", () => {
      apply();
      clearTimeout(typed);
      typed = setTimeout(remember, 250); // browsers refuse an address that changes with every letter
    });
    controls.querySelector("[data-reset]").addEventListener("click", () => {
      for (const select of selects) select.value = "";
      apply();
      remember();
    });
    views.set(section, { controls: selects, bar: controls, apply });
    if (selects.some((select) => select.value)) apply(); // a reloaded page keeps what was chosen
  }
  recall();

  // --- one attack at a time in heat maps and class tables
  for (const picker of all(".picker")) {
    const select = picker.querySelector("[data-pick]");
    const panels = all(".panel", picker);
    const show = () => panels.forEach((panel, i) => panel.classList.toggle("on", i === Number(select.value)));
    select.addEventListener("change", show);
    show();
  }

  // --- a curve under the pointer dims the others, in all charts of its dataset
  for (const charts of all(".charts")) {
    charts.addEventListener("pointerover", (event) => {
      const curve = event.target.closest(".curve");
      charts.classList.toggle("picked", Boolean(curve));
      for (const other of all(".curve", charts)) {
        other.classList.toggle("on", Boolean(curve) && other.dataset.model === curve.dataset.model);
      }
    });
    charts.addEventListener("pointerleave", () => charts.classList.remove("picked"));
  }

  // --- explanations: on hover, on focus and on touch; Escape hides them, the pointer may rest on them
  const tip = document.getElementById("tip");
  let owner = null;
  let timer = 0;
  function explain(element) {
    clearTimeout(timer);
    if (element === owner) return;
    hide();
    owner = element;
    tip.textContent = element.title;
    element.dataset.title = element.title;
    element.removeAttribute("title"); // else the browser would add its own
    element.setAttribute("aria-describedby", "tip");
    tip.hidden = false;
    place();
  }
  function place() {
    if (!owner) return;
    const at = owner.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left), innerWidth - size.width - 8);
    const below = at.bottom + 6 + size.height < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - size.height - 6)}px`;
  }
  function hide() {
    clearTimeout(timer);
    if (!owner) return;
    owner.title = owner.dataset.title;
    owner.removeAttribute("data-title");
    owner.removeAttribute("aria-describedby");
    owner = null;
    tip.hidden = true;
  }
  const explained = (event) => event.target.closest && event.target.closest("[title], [data-title]");
  document.addEventListener("pointerover", (event) => {
    const element = explained(event);
    if (element) explain(element);
    else if (tip.contains(event.target)) clearTimeout(timer);
    else timer = setTimeout(hide, 150);
  });
  for (const kind of ["focusin", "click"]) {
    document.addEventListener(kind, (event) => {
      const element = explained(event);
      if (element) explain(element);
      else if (!tip.contains(event.target)) hide();
    });
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  // Moving the focus scrolls a table: the explanation follows its owner.
  addEventListener("scroll", place, { capture: true, passive: true });
})();
