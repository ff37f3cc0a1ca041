// <form data-busy="Verifying…">: one submission at a time. While the answer is on its way the
// pressed button says what is happening, and further submissions are dropped. The button is
// never `disabled`: that would take its name and value out of the form and the focus off it.
// A button's own data-busy wins over the form's. Not for forms that answer with a download,
// since the page stays and would stay busy.
const pending = new Map();

export function startSubmit(root) {
  for (const form of root.querySelectorAll("form[data-busy]")) {
    form.addEventListener("submit", (event) => onSubmit(event, form));
  }
  // Coming back with the browser's back button shows the page as it was left: busy.
  addEventListener("pageshow", (event) => {
    if (event.persisted) restoreAll();
  });
}

function onSubmit(event, form) {
  if (event.defaultPrevented) return;
  if (pending.has(form)) {
    event.preventDefault();
    return;
  }
  const button = event.submitter ?? form.querySelector("button:not([type]), button[type=submit]");
  pending.set(form, button && { button, was: [...button.childNodes] });
  form.setAttribute("aria-busy", "true");
  if (!button) return;
  button.setAttribute("aria-disabled", "true");
  button.setAttribute("aria-busy", "true");
  button.replaceChildren(button.dataset.busy ?? form.dataset.busy);
}

function restoreAll() {
  for (const [form, held] of pending) {
    form.removeAttribute("aria-busy");
    held?.button.removeAttribute("aria-disabled");
    held?.button.removeAttribute("aria-busy");
    held?.button.replaceChildren(...held.was);
  }
  pending.clear();
}
