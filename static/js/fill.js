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
      target.value = await file.text();
      target.focus();
    });
  }
}
