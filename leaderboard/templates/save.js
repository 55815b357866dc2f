// A drawing as a file that stands alone, in the light theme's colours whatever the page is: on white,
// with its title, legend, caption and source, in fonts that other programs have, its styles written out.
(() => {
  const root = document.documentElement, edge = 16, mark = 22;
  const face = "Arial, Helvetica, 'Liberation Sans', 'DejaVu Sans', sans-serif";
  const kept = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-weight", "paint-order"];
  const pen = document.createElement("canvas").getContext("2d");
  // With room for a wider font where the file is read.
  const long = (text, size, weight) => { pen.font = `${weight} ${size}px ${face}`; return 1.12 * pen.measureText(text).width; };
  const clean = (text) => text.replace(/\s+/g, " ").trim();
  const node = (name, values, ...inside) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
    one.append(...inside);
    return one;
  };
  // At blanks, and inside a word where it is too long for a line.
  const lines = (text, size, weight, room) => {
    const done = [];
    let line = "";
    for (const piece of clean(text).match(/\S+?(?=[\s(]|$)|\(\S*|\s/g) ?? []) {
      if (line && long(line + piece, size, weight) > room) { done.push(line); line = ""; }
      for (const letter of piece) {
        if (line && long(line + letter, size, weight) > room) { done.push(line); line = ""; }
        line += letter;
      }
      if (!line.trim()) line = "";
    }
    return [...done, line].map(clean).filter(Boolean);
  };
  const styled = (svg) => {
    const copy = svg.cloneNode(true);
    const [from, to] = [svg, copy].map((one) => [one, ...one.querySelectorAll("*")]);
    from.forEach((one, index) => { const style = getComputedStyle(one); for (const name of kept) if (one.tagName !== "title") to[index].setAttribute(name, style.getPropertyValue(name)); to[index].removeAttribute("class"); });
    for (const name of ["role", "aria-label", "aria-hidden"]) copy.removeAttribute(name);
    return copy;
  };
  const markOf = (entry, x, y) => {
    const swatch = entry.querySelector(".swatch"), svg = entry.querySelector("svg");
    if (swatch) return [node("rect", { x: x + 2, y: y - 11, width: 13, height: 13, rx: 2, fill: getComputedStyle(swatch).backgroundColor, stroke: "#6b7079", "stroke-width": .6 })];
    if (!svg) return [];
    const copy = styled(svg), [width, height] = ["width", "height"].map((name) => Number(svg.getAttribute(name)));
    for (const [key, value] of Object.entries({ x, y: y - 4 - height / 2, width, height })) copy.setAttribute(key, value);
    return [copy];
  };
  const titleOf = (svg) => {
    const head = svg.closest("figure").querySelector("h3");
    return head ? [...head.childNodes].map((one) => clean(one.textContent)).filter(Boolean).join(" · ") : clean(svg.getAttribute("aria-label") ?? "picture");
  };
  const sourceOf = (figure) => {
    const [, share, suites] = /^(?:(\d+ %) · |.* · )?castlewalls · (.*)$/.exec(document.title) ?? [];
    const cell = figure.closest("dialog")?.id, from = figure.querySelector(".from")?.textContent ?? (suites && `Suites: ${suites}.`);
    return ["castlewalls", from, cell, share && `${share} of the run, not final`].filter(Boolean).map(clean).join(" · ");
  };
  const sheet = (svg) => {
    const figure = svg.closest("figure"), caption = figure.querySelector("figcaption"), words = caption.cloneNode(true);
    for (const one of words.querySelectorAll(".legend, .from")) one.remove();
    const [wide, tall] = svg.getAttribute("viewBox").split(" ").slice(2).map(Number);
    const room = Math.max(wide, 460), ink = getComputedStyle(document.body).color, parts = [];
    const soft = getComputedStyle(caption).color, title = titleOf(svg), source = sourceOf(figure);
    let y = edge - 4;
    const write = (text, size, fill, weight = 400, x = edge) => {
      for (const line of lines(text, size, weight, room + edge - x)) parts.push(node("text", { x, y: y += Math.round(1.35 * size), "font-size": size, "font-weight": weight, fill }, line));
    };
    write(title, 15, ink, 700);
    parts.push(node("g", { transform: `translate(${edge} ${y + 10})` }, ...styled(svg).childNodes));
    y += 10 + tall + 6;
    let x = edge;
    for (const entry of figure.querySelectorAll(".legend > span")) {
      const text = clean(entry.textContent), begin = entry.firstElementChild ? mark + (entry.querySelector("svg")?.viewBox.baseVal.width > 16 ? 10 : 0) : 0;
      const width = begin + long(text, 12, 400) + 14;
      if (x === edge) y += 18;
      else if (x + width > edge + room) { x = edge; y += 18; }
      parts.push(...markOf(entry, x, y));
      y -= 16;
      write(text, 12, ink, 400, x + begin);
      x += width;
      if (x > edge + room) x = edge;
    }
    y += 4;
    write(words.textContent, 11, soft);
    write(source, 11, soft);
    const [width, height] = [room + 2 * edge, y + edge];
    return node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "font-family": face }, node("title", {}, title), node("desc", {}, clean(`${words.textContent} ${source}`)), node("rect", { width, height, fill: "#ffffff" }), ...parts);
  };
  const drawing = (svg) => {
    const held = root.dataset.theme;
    root.dataset.theme = "light";
    try { return new XMLSerializer().serializeToString(sheet(svg)); } finally { if (held === undefined) delete root.dataset.theme; else root.dataset.theme = held; }
  };
  document.addEventListener("click", (event) => {
    const svg = event.target.closest("button.save")?.parentElement.querySelector("svg.plot");
    if (!svg) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([drawing(svg)], { type: "image/svg+xml" }));
    link.download = `${(svg.getAttribute("aria-label") || "picture").toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 80)}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 4000);
  });
})();
