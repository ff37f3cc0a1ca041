// <svg data-chart data-chart-read="#id">: reads one day at a time. Hover, tap, or the keys
// Left, Right, Home and End on the drawing mark a .day as current and write its data-read
// into #id; Escape and leaving clear it. "Show as table" is the way without any of this.
export function startChart(root) {
  for (const svg of root.querySelectorAll("[data-chart]")) bind(svg, root);
}

function bind(svg, root) {
  const days = [...svg.querySelectorAll(".day")];
  const read = root.querySelector(svg.dataset.chartRead);
  if (days.length === 0 || !read) return;

  // Where the drawing is wider than the page, today is what people look for.
  const wrap = svg.closest(".chart-wrap");
  if (wrap) wrap.scrollLeft = wrap.scrollWidth;

  const hint = read.textContent;
  let current = -1;

  const choose = (index) => {
    if (index === current) return;
    days[current]?.classList.remove("is-current");
    days[index]?.classList.add("is-current");
    read.textContent = days[index]?.dataset.read ?? hint;
    current = index;
  };
  const clear = () => choose(-1);

  const last = days.length - 1;
  const keys = {
    ArrowLeft: () => choose(current < 0 ? last : Math.max(current - 1, 0)),
    ArrowRight: () => choose(Math.min(current + 1, last)),
    Home: () => choose(0),
    End: () => choose(last),
    Escape: clear,
  };

  // Without this script there is nothing to do on the drawing, hence no tab stop before it.
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
    days[current]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  svg.addEventListener("blur", clear);

  const point = (event) => {
    const day = event.target.closest(".day");
    if (day) choose(days.indexOf(day));
  };
  svg.addEventListener("pointerover", point);
  svg.addEventListener("pointerdown", point);
  // A finger that is lifted "leaves" too, but its reader has only begun to read.
  svg.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && document.activeElement !== svg) clear();
  });
}
