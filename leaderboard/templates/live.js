"use strict";
(() => {
  const bar = document.getElementById("live"), left = document.getElementById("live-left"), news = document.getElementById("live-news"), button = document.getElementById("live-pause");
  if (!left) return;
  const written = 1000 * Number(bar.dataset.written), every = 1000 * Number(bar.dataset.every), end = written + 1000 * Number(bar.dataset.seconds);
  // A run that lives says so every minute; one that was killed cannot say that it was.
  const silent = Math.max(180000, 4 * every), over = 3600000;
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
    const age = Date.now() - written;
    left.textContent = words(end - Date.now());
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", String(paused));
    if (age > silent) news.textContent = `No news for ${words(age)}: the run seems to have been ended. The same command goes on where it was.`;
    else if (paused) news.textContent = "Paused.";
    return age;
  };
  const tick = () => {
    const age = show();
    const due = age > silent ? 60000 : every;
    if (!paused && age < over && document.visibilityState === "visible" && performance.now() > due && !busy()) location.reload();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    try { sessionStorage.setItem(slot, paused ? "1" : ""); } catch { /* for this view only */ }
    if (!paused) news.textContent = "";
    show();
  });
  document.addEventListener("visibilitychange", tick);
  setInterval(tick, 1000);
  show();
})();
