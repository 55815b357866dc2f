"use strict";
(() => {
  const bar = document.getElementById("live"), left = document.getElementById("live-left"), news = document.getElementById("live-news"), button = document.getElementById("live-pause");
  if (!left) return;
  const written = 1000 * Number(bar.dataset.written), every = 1000 * Number(bar.dataset.every), end = written + 1000 * Number(bar.dataset.seconds);
  // A run that lives says so every minute; one that was killed cannot say that it was.
  const silent = Math.max(180000, 4 * every), over = 3600000;
  // How old this copy was when it was loaded: that it grew old hidden or paused says nothing of the run.
  const born = Date.now() - written;
  const slot = `castlewalls-paused ${location.pathname}`;
  let paused = false;
  try { paused = sessionStorage.getItem(slot) === "1"; } catch { /* not kept */ }

  const words = (milliseconds) => {
    const seconds = Math.max(0, milliseconds / 1000);
    if (seconds < 55) return `${Math.max(5, 5 * Math.round(seconds / 5))} s`;
    return seconds < 5400 ? `${Math.max(1, Math.round(seconds / 60))} min` : `${(seconds / 3600).toFixed(1)} h`;
  };
  // A reader who does something, or has marked some text, is not interrupted.
  let touched = -Infinity, pressed = false;
  for (const what of ["pointerdown", "pointerup", "pointercancel", "keydown", "wheel", "touchmove"]) {
    addEventListener(what, () => { touched = performance.now(); pressed = what === "pointerdown" || (pressed && !what.startsWith("pointer")); }, { capture: true, passive: true });
  }
  const busy = () => pressed || performance.now() - touched < 2000 || !getSelection().isCollapsed;

  const show = () => {
    left.textContent = words(end - Date.now());
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
    if (paused) news.textContent = "Paused.";
    else if (born > silent) news.textContent = `No news for ${words(Date.now() - written)}: the run seems to have been ended. The same command goes on where it was.`;
  };
  let returned = false;
  const tick = () => {
    show();
    const due = returned || (born < over && performance.now() > (born > silent ? 60000 : every));
    if (due && !paused && document.visibilityState === "visible" && !busy()) location.reload();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    try { sessionStorage.setItem(slot, paused ? "1" : ""); } catch { /* for this view only */ }
    show();
    if (!paused) location.reload();
  });
  // Somebody who comes back sees what is new at once, or as soon as nothing is marked.
  document.addEventListener("visibilitychange", () => { returned ||= document.visibilityState === "visible"; tick(); });
  setInterval(tick, 1000);
  show();
})();
