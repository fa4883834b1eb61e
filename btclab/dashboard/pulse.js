// The kernel counts `beat` up at every refresh. When it falls silent (it died, or the connection did), the page says so
// by itself: nothing else on it would change.
function render({ model, el }) {
  const notice = document.createElement("div");
  notice.className = "btclab-silent";
  notice.setAttribute("role", "alert");
  notice.hidden = true;
  el.append(notice);

  let heard = Date.now();
  const look = () => {
    const seconds = Math.round((Date.now() - heard) / 1000);
    const silent = seconds > model.get("limit_s");
    notice.hidden = !silent;
    notice.textContent = `STALE PAGE: btclab has not answered for ${seconds} s. What you see may be out of date. ` +
      "Reload the page; if that does not help, start btclab dashboard again.";
    el.closest(".btclab-page")?.classList.toggle("btclab-dim", silent);
  };
  const hear = () => {
    heard = Date.now();
    look();
  };
  model.on("change:beat", hear);

  // Plotly measures its place once, often before that is laid out, and then only when the window changes.
  const fit = () => {
    const plot = el.closest(".btclab-page")?.querySelector(".btclab-chart .js-plotly-plot");
    const drawn = plot?.querySelector(".main-svg");
    if (!drawn) return;
    const place = plot.getBoundingClientRect(), box = drawn.getBoundingClientRect();
    if (Math.abs(place.width - box.width) > 2 || Math.abs(place.height - box.height) > 2) {
      window.dispatchEvent(new Event("resize"));
    }
  };

  const timers = [setInterval(look, 1000), setInterval(fit, 250)];
  return () => {
    timers.forEach(clearInterval);
    model.off("change:beat", hear);
  };
}
export default { render };
