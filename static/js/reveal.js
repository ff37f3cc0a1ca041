// <button type="button" hidden data-reveal="#id">Show</button>: shows and hides what is typed
// into the password input #id. The input is hidden again on submit, so that no browser
// remembers the secret as ordinary text.
export function startReveal(root) {
  for (const button of root.querySelectorAll("[data-reveal]")) {
    const input = root.querySelector(button.dataset.reveal);
    if (input) bind(button, input);
  }
}

function bind(button, input) {
  const show = (shown) => {
    input.type = shown ? "text" : "password";
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? "Hide" : "Show";
  };

  button.setAttribute("aria-controls", input.id);
  button.hidden = false;
  show(false);

  button.addEventListener("click", () => show(input.type === "password"));
  input.form?.addEventListener("submit", () => show(false));
}
