// .error-summary (tabindex="-1"): takes the focus when a form comes back with errors, so that
// they are read first, and its links put the cursor into their field.
export function startSummary(root) {
  const summary = root.querySelector(".error-summary");
  if (!summary) return;

  summary.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    const field = link && document.getElementById(link.hash.slice(1));
    if (!field) return;
    event.preventDefault();
    field.closest("details")?.setAttribute("open", "");
    const label = field.labels?.[0] ?? field;
    label.scrollIntoView({ block: "start" });
    field.focus({ preventScroll: true });
  });

  summary.focus();
}
