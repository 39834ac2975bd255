// Draws what the stream says. The stream's address is relative: it works under any prefix.
const source = new EventSource("stream");
const show = (id, text) => { document.getElementById(id).textContent = text; };
let levels = [];

function draw() {
  const step = 600 / (levels.length - 1);
  const points = levels.map((level, i) => `${(i * step).toFixed(1)} ${(215 - level * 2.1).toFixed(1)}`);
  const line = "M" + points.join("L");
  document.getElementById("line").setAttribute("d", line);
  document.getElementById("area").setAttribute("d", line + "V220H0Z");
}

source.addEventListener("past", (event) => {
  levels = JSON.parse(event.data);
  draw();
});

source.addEventListener("tick", (event) => {
  const tick = JSON.parse(event.data);
  levels.push(tick.level);
  levels.shift();
  draw();
  show("time", new Date(tick.time * 1000).toISOString().slice(11, 19));
  show("streams", tick.streams.toLocaleString("en"));
  show("cpu", tick.cpu.toFixed(1) + "%");
  show("worker", `, process ${tick.worker}`);
});

source.onopen = () => show("state", "live");
source.onerror = () => show("state", "reconnecting");
