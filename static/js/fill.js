// <input type="file" hidden data-fill="#id">: puts the text of a chosen file into #id. It comes hidden:
// without a script the text is pasted.
export function startFill(root) {
  for (const input of root.querySelectorAll("input[data-fill]")) {
    const target = root.querySelector(input.dataset.fill);
    if (!target) continue;
    input.hidden = false;
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (!file) return;
      const text = await file.text();
      const fits = target.maxLength < 0 || text.length <= target.maxLength;
      input.setCustomValidity(fits ? "" : "That file is too long. Split it.");
      if (!fits) {
        input.reportValidity();
        input.value = "";
        input.setCustomValidity("");
        return;
      }
      target.value = text;
      target.focus();
    });
  }
}
