// Sends what is typed and shows what comes back, with the time it took.
const prefix = document.currentScript.dataset.prefix;
const state = document.getElementById("state");
const text = document.getElementById("text");
const sent = [];
const address = new URL(`${prefix}/ws`, location.href.replace(/^http/, "ws"));
const socket = new WebSocket(address);

socket.onopen = () => { state.textContent = "connected"; };
socket.onclose = () => { state.textContent = "closed; reload the page to begin again"; };
socket.onmessage = (event) => {
  const row = document.createElement("li");
  row.textContent = `${event.data} (${(performance.now() - sent.shift()).toFixed(1)} ms)`;
  document.getElementById("heard").prepend(row);
};

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket.readyState !== WebSocket.OPEN) return;
  sent.push(performance.now());
  socket.send(text.value);
  text.value = "";
});
