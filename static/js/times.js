// <time data-relative datetime="…">: keeps "3 minutes ago" true while the page stays open.
// The words are those of the server: under ten seconds either way "just now", then whole
// seconds, minutes, hours and days: rounded down for what is past, to the nearest for what is to
// come. The exact time is the server's title=.
const EVERY = 30_000;
const JUST_NOW = 10;
const UNITS = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

export function relative(then, now) {
  const seconds = Math.trunc((now - then) / 1000);
  const distance = Math.abs(seconds);
  if (distance < JUST_NOW) return "just now";

  const [unit, size] = UNITS.find(([, size]) => distance >= size);
  const count = seconds > 0 ? Math.floor(distance / size) : Math.round(distance / size);
  const words = `${count} ${unit}${count === 1 ? "" : "s"}`;
  return seconds > 0 ? `${words} ago` : `in ${words}`;
}

export function startTimes(root) {
  const times = [...root.querySelectorAll("time[data-relative][datetime]")];
  if (times.length === 0) return;

  const refresh = () => {
    if (document.hidden) return;
    const now = Date.now();
    for (const time of times) {
      const then = Date.parse(time.dateTime);
      if (!Number.isNaN(then)) time.textContent = relative(then, now);
    }
  };

  setInterval(refresh, EVERY);
  document.addEventListener("visibilitychange", refresh);
  addEventListener("pageshow", refresh);
}
