"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // The metric switch: radio buttons, so arrow keys and screen readers work without help.
  for (const box of document.querySelectorAll("[data-switch]")) {
    const tables = [...document.querySelectorAll(".metric")].filter((table) => table.dataset.board === box.dataset.switch);
    const show = (name) => tables.forEach((table) => { table.hidden = table.dataset.metric !== name; });
    const first = tables.find((table) => table.dataset.default === "1") || tables[0];
    if (!first) continue;
    box.hidden = false;
    box.addEventListener("change", (event) => show(event.target.value));
    for (const radio of box.querySelectorAll("input")) radio.checked = radio.value === first.dataset.metric;
    show(first.dataset.metric);
  }

  // A cell's panel is its address: opening sets the hash, closing takes it away, a shared link opens the same panel.
  const wanted = () => {
    const dialog = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    return dialog && dialog.tagName === "DIALOG" ? dialog : null;
  };
  const sync = () => {
    const target = wanted();
    for (const open of document.querySelectorAll("dialog[open]")) if (open !== target) open.close();
    if (target && !target.open) { target.showModal(); target.scrollTop = 0; }
  };
  // Following a link to a hidden element takes the focus off the link, so the way back is kept here.
  let opener = null;
  document.addEventListener("click", (event) => { opener = event.target.closest("a[href^='#cell-']") || opener; });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => {
      if (opener?.hash === `#${dialog.id}`) opener.focus();
      if (wanted() === dialog) history.replaceState(null, "", location.pathname + location.search);
    });
    dialog.addEventListener("click", (event) => {
      const closing = event.target.closest("a.close");
      if (closing) event.preventDefault();
      if (closing || event.target === dialog) dialog.close();
    });
  }
  addEventListener("hashchange", sync);
  sync();

  // Arrow keys walk the matrix from a focused cell.
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    const cell = move && event.target.closest("table.matrix tbody td");
    if (!cell) return;
    const row = cell.parentElement;
    const rows = [...row.parentElement.rows];
    const next = rows[rows.indexOf(row) + move[0]]?.cells[cell.cellIndex + move[1]]?.querySelector("a.cell");
    if (next) { event.preventDefault(); next.focus(); }
  });

  // Theme: follow the system, or hold one. Storage may be forbidden for a local file; the switch works without it.
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  const apply = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = "system";
  try { theme = localStorage.getItem("castlewalls-theme") || theme; } catch { /* not kept */ }
  if (!themes.includes(theme)) theme = "system";
  apply(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    apply(theme);
    try { localStorage.setItem("castlewalls-theme", theme); } catch { /* not kept */ }
  });
})();
