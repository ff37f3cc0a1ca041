// <button hidden data-copy="#id">: copies the text of #id and says so on the button itself.
// The button comes hidden and is shown only where a clipboard can be written (a secure
// origin); without one, the text beside it can still be selected.
const SAID_FOR = 2000;

export function startCopy(root) {
  if (!navigator.clipboard?.writeText) return;
  for (const button of root.querySelectorAll("[data-copy]")) bind(button, root);
}

function bind(button, root) {
  const label = button.textContent;
  let timer;

  // The words are announced as they change, without moving the focus.
  button.setAttribute("aria-live", "polite");
  button.hidden = false;

  const say = (words) => {
    button.textContent = words;
    clearTimeout(timer);
    timer = setTimeout(() => { button.textContent = label; }, SAID_FOR);
  };

  button.addEventListener("click", async () => {
    const source = root.querySelector(button.dataset.copy);
    if (!source) return;
    try {
      await navigator.clipboard.writeText((source.value ?? source.textContent).trim());
      say("Copied");
    } catch {
      getSelection()?.selectAllChildren(source);
      say("Press Ctrl+C");
    }
  });
}
