"use strict";
// Shows one sample at a time, of those that the three filters leave.
const samples = JSON.parse(document.getElementById("samples").textContent);
const [task, verdict, words] = ["task", "verdict", "words"].map((id) => document.getElementById(id));
const card = document.getElementById("sample");
const verdicts = {
  mistakes: (s) => s.score < 1,
  wrong: (s) => s.score === 0 && !s.error,
  partly: (s) => s.score > 0 && s.score < 1,
  failed: (s) => Boolean(s.error),
  right: (s) => s.score === 1,
  all: () => true,
};
let chosen = [];
let place = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function choose() {
  const sought = words.value.trim().toLowerCase();
  chosen = samples.filter(
    (s) =>
      (!task.value || s.task === task.value) &&
      verdicts[verdict.value](s) &&
      (!sought || s.text.includes(sought))
  );
  go(0);
}

function go(to) {
  place = Math.max(0, Math.min(to, chosen.length - 1));
  document.getElementById("count").textContent = chosen.length
    ? `${place + 1} of ${chosen.length}`
    : "none";
  card.classList.toggle("empty", !chosen.length);
  card.replaceChildren(...(chosen.length ? show(chosen[place]) : ["No sample is left by these filters."]));
  if (chosen.length) history.replaceState(null, "", `#${chosen[place].task}/${chosen[place].key}`);
}

function show(s) {
  const picture = s.picture ? element("img") : element("div", "no picture", "missing");
  if (s.picture) {
    picture.src = s.picture;
    picture.alt = "the picture asked about";
    picture.onload = () => picture.classList.toggle("large", picture.naturalWidth > 200);
  }
  const facts = element("dl");
  const fact = (name, text, className) =>
    facts.append(element("dt", name), element("dd", text, className));
  const colour = s.score === 1 ? "yes" : s.score === 0 ? "no" : "";
  fact("answer", s.answer === undefined ? "–" : s.answer || "(nothing)", `said ${colour}`);
  fact(s.references.length > 1 ? "references" : "reference", s.references.join("\n"));
  fact("score", String(Math.round(s.score * 1000) / 1000));
  if (s.error) fact("failed", s.error, "no");
  fact("task", s.part ? `${s.task}, ${s.part}` : s.task);
  fact("sample", `${s.key} (${s.image})`);
  const text = element("div");
  text.append(element("h3", s.question), facts);
  return [picture, text];
}

for (const filter of [task, verdict]) filter.addEventListener("change", choose);
words.addEventListener("input", choose);
document.getElementById("back").addEventListener("click", () => go(place - 1));
document.getElementById("on").addEventListener("click", () => go(place + 1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.activeElement === words) {
    if (event.key === "Escape" || event.key === "Enter") words.blur();
    return;
  }
  if (event.target.tagName === "SELECT") return;
  const steps = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, PageDown: 10, PageUp: -10 };
  if (event.key in steps) go(place + steps[event.key]);
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(chosen.length - 1);
  else if (event.key === "/") words.focus();
  else return;
  event.preventDefault();
});

const [wantedTask, wantedKey] = decodeURIComponent(location.hash.slice(1)).split("/");
const wanted = samples.find((s) => s.task === wantedTask && s.key === wantedKey);
if (wanted) verdict.value = "all";
else if (!samples.some(verdicts.mistakes)) verdict.value = "all";
choose();
if (wanted) go(chosen.indexOf(wanted));
