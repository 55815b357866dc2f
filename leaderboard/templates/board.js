"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // Dialogs and tables that nobody sees yet are each one text, the page's own: nearly all elements of a
  // large board, made when they are asked for.
  const reveal = (around) => { for (const button of around.querySelectorAll("button.copy, button.save")) button.hidden = false; };
  const fill = (box) => {
    const kept = box.firstElementChild;
    if (kept?.tagName === "NOSCRIPT") { box.innerHTML = kept.textContent; reveal(box); }
  };

  // The metric switch: radio buttons, so arrow keys and screen readers work without help.
  for (const box of document.querySelectorAll("[data-switch]")) {
    const tables = [...document.querySelectorAll(".metric")].filter((table) => table.dataset.board === box.dataset.switch);
    const show = (name) => tables.forEach((table) => { table.hidden = table.dataset.metric !== name; if (!table.hidden) fill(table.querySelector(".scroll")); });
    const first = tables.find((table) => table.dataset.default === "1") || tables[0];
    if (!first) continue;
    box.hidden = false;
    box.addEventListener("change", (event) => show(event.target.value));
    for (const radio of box.querySelectorAll("input")) radio.checked = radio.value === first.dataset.metric;
    show(first.dataset.metric);
  }

  // The view: question, filters and sorting, kept in the address behind what it points to:
  // #cell=x&q=finds&family=sampler&sort=stops.time.up. A link without a view changes none.
  const asks = [...document.querySelectorAll("a.ask")];
  const sections = asks.map((ask) => document.getElementById(ask.hash.slice(1)));
  const filters = [...document.querySelectorAll("[data-filter]")];
  const tables = [...document.querySelectorAll("table[data-table]")];
  const view = { q: "", sort: "" };
  for (const input of filters) view[input.dataset.filter] = "";
  let target = "";
  // A link from another board may name what is not on this one: it would show nothing at all.
  const offered = (name, value) => {
    const input = filters.find((one) => one.dataset.filter === name);
    return input?.tagName !== "SELECT" || [...input.options].some((one) => one.value === value);
  };

  const read = () => {
    const parts = location.hash.slice(1).split("&");
    target = "";
    const wishes = {};
    for (const part of parts) {
      const [name, value] = part.split("=", 2).map((text) => { try { return decodeURIComponent(text.replaceAll("+", " ")); } catch { return ""; } });
      if (value === undefined) target = name; else if (["cell", "models", "method"].includes(name)) target = `${name}=${value}`; else if (Object.hasOwn(view, name) && offered(name, value)) wishes[name] = value;
    }
    const asked = sections.find((section) => section && section.id === target);
    if (asked) { view.q = target; target = ""; }
    if (Object.keys(wishes).length) for (const name of Object.keys(view)) view[name] = wishes[name] ?? (asked && name === "q" ? view.q : "");
  };
  const write = () => {
    const parts = target ? [encodeURIComponent(target).replace("%3D", "=")] : [];
    if (view.q === sections[0]?.id) view.q = "";
    for (const [name, value] of Object.entries(view)) if (value) parts.push(`${name}=${encodeURIComponent(value)}`);
    const hash = parts.length ? `#${parts.join("&")}` : "";
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
  };

  const text = (element) => element.textContent.toLowerCase() + " " + [...element.querySelectorAll("[title]")].map((one) => one.title.toLowerCase()).join(" ") + " " + (element.title || "").toLowerCase() + " " + (element.dataset.words ?? "").toLowerCase();
  const has = (element, name) => !view[name] || (element.dataset[name] ?? "").split("|").includes(view[name]);
  const contains = (element) => !view.text || text(element).includes(view.text.toLowerCase());

  const filterEntries = () => {
    let visible = 0, total = 0;
    for (const table of document.querySelectorAll("table.entries")) {
      let any = false;
      for (const group of table.tBodies) {
        const inside = ["testbed", "calls", "alters"].every((name) => has(group, name));
        const named = view.text && contains(group.rows[0]);
        const entries = [...group.rows].slice(1);
        const controls = entries.filter((row) => row.classList.contains("control"));
        let left = 0;
        for (const row of entries) {
          if (controls.includes(row)) continue;
          row.hidden = !(inside && ["needs", "family", "year", "status"].every((name) => has(row, name)) && (named || contains(row)));
          total += 1;
          left += row.hidden ? 0 : 1;
        }
        // No defense stays beside what it is compared with.
        group.hidden = !left && (entries.length > controls.length || !inside);
        any = any || !group.hidden;
        visible += left;
      }
      table.parentElement.querySelector(".nothing").hidden = any;
    }
    return [visible, total];
  };

  // An answer is about all entries of its testbed, as their ranks are: a filter that leaves the testbed out
  // takes it away, one of entries changes nothing of it, and the count says so.
  const filterAnswers = () => asks.forEach((ask, index) => {
    const groups = [...sections[index].querySelectorAll("tbody[data-testbed]")];
    const answers = [...ask.querySelectorAll(".answer:not(.more)")];
    const kept = answers.filter((_, number) => ["testbed", "calls", "alters"].every((name) => has(groups[number], name)));
    for (const one of answers) one.hidden = kept.indexOf(one) < 0 || kept.indexOf(one) > 2;
    ask.classList.toggle("out", !kept.length);
    const more = ask.querySelector(".more .on");
    if (!more) return;
    const tally = ["yes", "no", "open"].map((word) => [kept.filter((one) => one.classList.contains(word)).length, word]).filter(([count]) => count);
    more.textContent = `${kept.length < answers.length ? `${kept.length} of` : "all"} ${answers.length}: ${tally.map(([count, word]) => `${count} ${word}`).join(", ")}`;
    more.parentElement.hidden = !kept.length;
  });

  const matrix = document.querySelector("table.whole");
  const heads = matrix ? [...matrix.tHead.rows[1].cells].slice(1) : [];
  const lines = matrix ? [...matrix.querySelectorAll("tbody[data-testbed] tr")] : [];
  const filterMatrix = () => {
    if (!matrix) return [0, 0];
    // A year or a word of a method leaves its column, of an attack its row, of both both.
    const free = (name, test) => {
      const columns = heads.map((head) => head.classList.contains("control") ? false : test(head)), rows = lines.map((line) => test(line.cells.length ? (name === "text" ? line.cells[0] : line) : line));
      return view[name] ? { columns: columns.some(Boolean) ? columns : rows.some(Boolean) ? null : columns, rows: rows.some(Boolean) ? rows : columns.some(Boolean) ? null : rows } : { columns: null, rows: null };
    };
    const year = free("year", (one) => has(one, "year")), word = free("text", contains);
    const columns = heads.map((head, index) => head.classList.contains("control") || (["needs", "family", "status"].every((name) => has(head, name)) && (year.columns?.[index] ?? true) && (word.columns?.[index] ?? true)));
    const troubled = ["failed", "skipped"].includes(view.status);
    let visible = 0, total = 0;
    lines.forEach((line, number) => {
      const cells = [...line.cells].slice(1);
      const met = !troubled || cells.some((cell, index) => columns[index] && cell.dataset.s === view.status);
      line.hidden = !(has(line.parentElement, "testbed") && has(line, "calls") && has(line, "alters") && (year.rows?.[number] ?? true) && (word.rows?.[number] ?? true) && met);
      cells.forEach((cell, index) => {
        cell.hidden = !columns[index];
        total += cell.dataset.v ? 1 : 0;
        visible += cell.dataset.v && !cell.hidden && !line.hidden ? 1 : 0;
      });
    });
    heads.forEach((head, index) => { head.hidden = !columns[index]; });
    for (const family of matrix.querySelectorAll(".families th")) {
      const inside = heads.filter((head) => head.dataset.in === family.dataset.group && !head.hidden).length;
      family.hidden = !inside;
      if (inside) family.colSpan = inside;
    }
    for (const title of matrix.querySelectorAll("tbody.testbed")) {
      const bodies = [title.nextElementSibling, title.nextElementSibling?.nextElementSibling];
      title.hidden = !bodies.some((body) => body && [...body.rows].some((row) => !row.hidden));
    }
    matrix.parentElement.querySelector(".nothing").hidden = lines.some((line) => !line.hidden);
    return [visible, total];
  };

  // Sorting stays inside a testbed: no number is compared across two of them.
  const original = new Map();
  for (const table of tables) for (const body of table.tBodies) original.set(body, [...body.rows]);
  const sort = () => {
    const [name, key, way] = view.sort.split(".");
    for (const table of tables) {
      const all = [...table.tHead.querySelectorAll("th[data-key]")];
      const head = table.dataset.table === name ? all.find((one) => one.dataset.key === key) : undefined;
      for (const one of all) { if (one === head && way) one.setAttribute("aria-sort", way === "up" ? "ascending" : "descending"); else one.removeAttribute("aria-sort"); }
      const index = head ? [...head.parentElement.cells].indexOf(head) : -1;
      const sign = way === "up" ? 1 : -1;
      for (const [body, rows] of original) {
        if (!table.contains(body)) continue;
        const fixed = rows.filter((row) => row.classList.contains("row")), moved = rows.filter((row) => !row.classList.contains("row"));
        const value = (row) => { const cell = row.cells[index]; return cell.dataset.v === undefined ? cell.textContent.trim().toLowerCase() : cell.dataset.v; };
        if (index >= 0) {
          moved.sort((one, other) => {
            const [a, b] = [value(one), value(other)];
            if (a === "" || b === "") return (a === "") - (b === "");
            const difference = Number(a) - Number(b);
            return sign * (Number.isNaN(difference) ? a.localeCompare(b, "en") : difference);
          });
        }
        body.append(...fixed, ...moved);
      }
    }
  };

  const apply = () => {
    const question = sections.find((section) => section && section.id === view.q) ?? sections[0];
    view.q = question?.id ?? "";
    sections.forEach((section, index) => {
      if (section) section.hidden = section !== question;
      if (section === question) asks[index].setAttribute("aria-current", "true"); else asks[index].removeAttribute("aria-current");
    });
    for (const input of filters) if (input.value !== view[input.dataset.filter]) input.value = view[input.dataset.filter];
    filterAnswers();
    const [entries, of] = filterEntries(), [cells, total] = filterMatrix();
    sort();
    for (const first of document.querySelectorAll(".first")) {
      const scenes = [...first.querySelectorAll(".scene")], shown = scenes.find((scene) => has(scene, "testbed"));
      for (const scene of scenes) scene.hidden = scene !== shown;
    }
    const filtered = filters.some((input) => view[input.dataset.filter]);
    const count = document.getElementById("count");
    const narrowed = ["needs", "family", "year", "status", "text"].some((name) => view[name]) ? "; answers and ranks: of all entries" : "";
    if (count) count.textContent = filtered ? `${entries} of ${of} entries, ${cells} of ${total} cells${narrowed}` : `${of} entries, ${total} cells`;
    if (filtered && box) box.open = true;
  };
  const change = () => { apply(); write(); };

  const box = document.getElementById("filters");
  if (box) {
    box.hidden = false;
    box.open = matchMedia("(min-width: 861px)").matches;
    for (const input of filters) input.addEventListener("input", () => { view[input.dataset.filter] = input.value; change(); });
    document.getElementById("reset").addEventListener("click", () => { for (const input of filters) view[input.dataset.filter] = ""; view.sort = ""; change(); });
  }
  for (const [index, ask] of asks.entries()) ask.addEventListener("click", (event) => { event.preventDefault(); view.q = sections[index].id; change(); });
  for (const table of tables) for (const head of table.tHead.querySelectorAll("th[data-key]")) {
    head.querySelector(".sort").addEventListener("click", () => {
      const name = `${table.dataset.table}.${head.dataset.key}`;
      const ways = ["up", "down", ""], now = view.sort.startsWith(`${name}.`) ? ways.indexOf(view.sort.slice(name.length + 1)) : -1;
      const way = ways[now + 1];
      view.sort = way ? `${name}.${way}` : "";
      change();
    });
  }

  // A cell's panel is its address: opening sets the hash, closing takes it away, a shared link opens the same panel.
  const wanted = () => {
    const dialog = target && document.getElementById(target);
    return dialog && dialog.tagName === "DIALOG" ? dialog : null;
  };
  const sync = () => {
    const dialog = wanted();
    for (const open of document.querySelectorAll("dialog[open]")) if (open !== dialog) open.close();
    if (dialog && !dialog.open) { fill(dialog); dialog.showModal(); dialog.scrollTop = 0; }
    const element = !dialog && target ? document.getElementById(target) : null;
    // What an address names may stand on another page of a site: a link on this one says on which.
    const elsewhere = target && !dialog && !element ? [...document.links].find((link) => link.hash === `#${target}` && link.pathname !== location.pathname) : null;
    if (elsewhere) { location.replace(elsewhere.href); return; }
    for (let around = element; around; around = around.parentElement) if (around.tagName === "DETAILS") around.open = true;
    const inside = element?.querySelector(":scope > details");
    if (inside) inside.open = true;
    // What is not drawn yet has no height yet: the page would scroll past what it looks for.
    if (element) { document.getElementById("matrix")?.classList.add("laid-out"); element.scrollIntoView(); }
  };
  const arrive = () => { read(); apply(); sync(); write(); };
  // Following a link to a hidden element takes the focus off the link, so the way back is kept here.
  let opener = null;
  document.addEventListener("click", (event) => { opener = event.target.closest("a[href^='#cell='], a[href^='#models='], a[href^='#method=']") || opener; });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => {
      for (const card of dialog.querySelectorAll(".define:popover-open")) card.hidePopover();
      if (opener?.hash === `#${dialog.id}`) opener.focus();
      if (wanted() === dialog) { target = ""; write(); }
    });
    // Its blank space is the dialog too, and so is where a selection ends that was drawn out of it.
    const outside = ({ target: hit, clientX: x, clientY: y }) => { const box = dialog.getBoundingClientRect(); return hit === dialog && (x < box.left || x > box.right || y < box.top || y > box.bottom); };
    let began = false;
    dialog.addEventListener("pointerdown", (event) => { began = outside(event); });
    dialog.addEventListener("click", (event) => {
      const closing = event.target.closest("a.close");
      if (closing) event.preventDefault();
      if (closing || (began && outside(event))) dialog.close();
    });
  }
  // What lies outside an open dialog cannot be reached, so a definition goes where it is asked for.
  document.addEventListener("click", (event) => {
    const what = event.target.closest("button.what");
    const card = what && document.getElementById(what.getAttribute("popovertarget"));
    const home = what?.closest("dialog") ?? document.body;
    if (card && card.parentElement !== home) home.append(card);
  });
  // A command or a citation to paste. Where the clipboard is forbidden, the text is selected instead.
  const select = (element) => { const range = document.createRange(); range.selectNodeContents(element); const selection = getSelection(); selection.removeAllRanges(); selection.addRange(range); };
  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("button.copy");
    if (!copy) return;
    const code = copy.parentElement.querySelector("code");
    select(code);
    let done = false;
    try { await navigator.clipboard.writeText(code.textContent); done = true; } catch { try { done = document.execCommand("copy"); } catch { /* selected, at least */ } }
    if (done) getSelection().removeAllRanges();
    copy.textContent = done ? "Copied" : "Selected";
    setTimeout(() => { copy.textContent = "Copy"; }, 1600);
  });

  reveal(document);
  addEventListener("hashchange", arrive);
  arrive();

  // Arrow keys walk a matrix from a focused cell, over what is hidden or empty.
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const move = moves[event.key];
    const cell = move && event.target.closest("table.matrix tbody td");
    if (!cell) return;
    const rows = [...cell.closest("table").rows].filter((row) => row.parentElement.tagName === "TBODY" && row.cells.length > 1);
    let [row, column] = [rows.indexOf(cell.parentElement), cell.cellIndex];
    do { row += move[0]; column += move[1]; } while (rows[row]?.cells[column] && !(rows[row].cells[column].querySelector("a.cell")?.checkVisibility()));
    const next = rows[row]?.cells[column]?.querySelector("a.cell");
    if (next) { event.preventDefault(); next.focus(); }
  });

  // Why a matrix has no number somewhere: text for screen readers, a tip for others.
  document.addEventListener("mouseover", (event) => {
    const dash = event.target.closest("span.cell");
    if (dash && !dash.title) dash.title = dash.querySelector(".unseen")?.textContent ?? "";
  });

  // Theme: follow the system, or hold one. Storage may be forbidden for a local file; the switch works without it.
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  const dress = (theme) => {
    if (theme === "system") delete root.dataset.theme; else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  let theme = "system";
  try { theme = localStorage.getItem("castlewalls-theme") || theme; } catch { /* not kept */ }
  if (!themes.includes(theme)) theme = "system";
  dress(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    dress(theme);
    try { localStorage.setItem("castlewalls-theme", theme); } catch { /* not kept */ }
  });
})();
