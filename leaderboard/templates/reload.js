
// What was open, chosen and scrolled to survives loading this page again, whatever of it is new. The
// address keeps the rest. Storage may be forbidden for a local file; then the browser does its best.
(() => {
  const slot = `castlewalls-view ${location.pathname}`;
  const written = (element) => {
    if (element.tagName === "DETAILS") return element.querySelector("summary")?.textContent ?? "";
    if (element.tagName === "TR") return element.cells[0]?.textContent ?? "";
    return element.getAttribute("href") ?? element.dataset.filter ?? element.getAttribute("aria-label") ?? element.getAttribute("aria-labelledby") ?? element.textContent;
  };
  // An id; or what it is in, what it is, and which of those with these words.
  const plain = (element) => [element.parentElement?.closest("[id]")?.id ?? "", element.tagName, written(element).trim().slice(0, 80)];
  const alike = (around, tag, words) => [...(document.getElementById(around) ?? document).querySelectorAll(tag)].filter((one) => !one.id && plain(one).join("\n") === [around, tag, words].join("\n"));
  const name = (element) => { if (element.id) return [element.id]; const parts = plain(element); return [...parts, alike(...parts).indexOf(element)]; };
  const find = (parts) => (parts.length === 1 ? document.getElementById(parts[0]) : alike(...parts.slice(0, 3))[parts[3]] ?? null);

  const toggled = new Set();
  document.addEventListener("toggle", (event) => { if (event.target.tagName === "DETAILS") toggled.add(event.target); }, true);
  const scrolled = new Set();
  document.addEventListener("scroll", (event) => { if (event.target instanceof Element) scrolled.add(event.target); }, { capture: true, passive: true });

  const save = () => {
    const active = document.activeElement, held = document.elementFromPoint(innerWidth / 2, Math.min(120, innerHeight / 2))?.closest("tr, summary, section, details");
    const view = {
      question: document.querySelector("a.ask[aria-current]")?.hash ?? "",
      details: [...toggled].filter((one) => one.isConnected).map((one) => [name(one), one.open]),
      switches: [...document.querySelectorAll("[data-switch]")].map((box) => [box.dataset.switch, box.querySelector("input:checked")?.value ?? ""]),
      popover: document.querySelector(":popover-open")?.id ?? "",
      boxes: [...scrolled].filter((one) => one.isConnected && (one.scrollLeft || one.scrollTop)).map((one) => [name(one), one.scrollLeft, one.scrollTop]),
      y: scrollY,
      held: held && !held.closest("dialog") ? [name(held), held.getBoundingClientRect().top] : null,
      focus: active && active !== document.body ? [name(active), active.selectionStart ?? null, active.selectionEnd ?? null] : null,
    };
    try { sessionStorage.setItem(slot, JSON.stringify(view)); history.scrollRestoration = "manual"; } catch { history.scrollRestoration = "auto"; }
  };
  const restore = (view) => {
    // The address does not name the first question, and another may have come before it.
    const asks = [...document.querySelectorAll("a.ask")], asked = asks.find((one) => one.hash === view.question);
    if (asked && !asked.hasAttribute("aria-current") && !/[#&]q=/.test(location.hash)) asked.click();
    for (const [parts, open] of view.details) { const one = find(parts); if (one) { one.open = open; toggled.add(one); } }
    for (const [board, value] of view.switches) {
      const box = [...document.querySelectorAll("[data-switch]")].find((one) => one.dataset.switch === board);
      const radio = [...(box?.querySelectorAll("input") ?? [])].find((one) => one.value === value);
      if (radio && !radio.checked) { radio.checked = true; radio.dispatchEvent(new Event("change", { bubbles: true })); }
    }
    const popover = view.popover && document.getElementById(view.popover);
    if (popover && popover.popover !== null) popover.showPopover();
    for (const [parts, left, top] of view.boxes) { const one = find(parts); if (one) { one.scrollLeft = left; one.scrollTop = top; scrolled.add(one); } }
    const [focus, start, end] = view.focus ?? [];
    const active = focus && find(focus);
    if (active) { active.focus({ preventScroll: true }); if (start !== null) active.setSelectionRange?.(start, end); }
    // What is not drawn yet has no height yet, and what is below it is elsewhere.
    if (view.y) document.getElementById("matrix")?.classList.add("laid-out");
    scrollTo({ top: view.y, behavior: "instant" });
    const held = view.y && view.held && find(view.held[0]);
    if (held) scrollBy({ top: held.getBoundingClientRect().top - view.held[1], behavior: "instant" });
  };
  addEventListener("pagehide", save);
  try {
    const view = JSON.parse(sessionStorage.getItem(slot));
    if (view && performance.getEntriesByType("navigation")[0]?.type !== "navigate") restore(view);
  } catch { /* not kept, or of another version of this page */ }
})();
