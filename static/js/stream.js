// <form data-stream="#target">: what the server writes is shown in #target as it comes, and the page
// is read anew when it is all there. The form's data-busy is what its button says meanwhile. Started
// before submit.js, which leaves a prevented submission alone.
export function startStream(root) {
  for (const form of root.querySelectorAll("form[data-stream]")) {
    const target = root.querySelector(form.dataset.stream);
    if (target) form.addEventListener("submit", (event) => onSubmit(event, form, target));
  }
}

async function onSubmit(event, form, target) {
  event.preventDefault();
  if (form.hasAttribute("aria-busy")) return;
  form.setAttribute("aria-busy", "true");
  const button = event.submitter ?? form.querySelector("button");
  button.setAttribute("aria-disabled", "true");
  button.textContent = form.dataset.busy;
  const field = target instanceof HTMLTextAreaElement;
  const show = (text) => {
    target.hidden = false;
    if (field) target.value = text;
    else target.textContent = text;
  };
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { accept: "text/event-stream" },
    });
    if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      location.assign(answer.url.split("#")[0]);
      return;
    }
    document.querySelector(`[data-empty="${form.dataset.stream}"]`)?.remove();
    let text = "";
    for await (const event of events(answer.body)) {
      if (!event.text) continue;
      text += event.text;
      show(text);
    }
  } finally {
    // However it ended, the question tells.
    location.reload();
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}
