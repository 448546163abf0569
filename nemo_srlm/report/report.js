// The theme button and the sample browser. Without this script everything is visible.
(() => {
  "use strict";
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  dark.addEventListener("change", label);
  theme.hidden = false;
  label();

  const browse = document.querySelector(".browse");
  if (!browse) return;
  const samples = [...document.querySelectorAll(".sample")];
  const iteration = document.getElementById("iteration");
  const kind = document.getElementById("kind");
  const place = document.getElementById("place");
  let at = 0;
  const show = () => {
    const shown = samples.filter((s) => s.dataset.iteration === iteration.value && (kind.value === "all" || s.dataset.kind === kind.value));
    at = shown.length ? (at + shown.length) % shown.length : 0;
    for (const s of samples) s.hidden = s !== shown[at];
    place.textContent = shown.length ? `${at + 1} of ${shown.length}` : "none";
  };
  const move = (by) => { at += by; show(); };
  const restart = () => { at = 0; show(); };
  document.getElementById("previous").addEventListener("click", () => move(-1));
  document.getElementById("next").addEventListener("click", () => move(1));
  iteration.addEventListener("change", restart);
  kind.addEventListener("change", restart);
  browse.hidden = false;
  show();
})();
