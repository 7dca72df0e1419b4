// Charts are drawn when they come near the screen, or when nothing else is to be done, so that they never delay the page.
"use strict";
(() => {
  const NARROW = 560;
  const theme = {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif",
    axis: {
      labelColor: "var(--ink)", titleColor: "var(--muted)", gridColor: "var(--line)", domainColor: "var(--strong-line)",
      tickColor: "var(--strong-line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
    },
    legend: { labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    header: { labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 13 },
    title: { color: "var(--ink)", subtitleColor: "var(--muted)" },
    view: { stroke: "var(--line)" },
  };

  const whole = (spec) => !["facet", "concat", "hconcat", "vconcat", "repeat"].some((name) => name in spec)
    && !["row", "column", "facet"].some((name) => spec.encoding && name in spec.encoding);

  function fitted(spec, width) {
    const narrow = width < NARROW;
    const fit = whole(spec) ? { width: "container", autosize: { type: "fit-x", contains: "padding" } } : {};
    const config = { ...spec.config };
    for (const [name, values] of Object.entries(theme)) {
      config[name] = typeof values === "object" ? { ...config[name], ...values } : values;
    }
    if (narrow) {
      config.axis = { ...config.axis, labelLimit: 120, labelFontSize: 11 };
      config.legend = { ...config.legend, orient: "bottom", columns: 1, labelLimit: width - 60 };
    }
    return { ...spec, ...fit, config };
  }

  function start() {
    if (window.vegaEmbed) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("vega").textContent;
    document.head.append(script);
  }

  async function draw(figure) {
    if (figure.dataset.state) return;
    figure.dataset.state = "drawing";
    const plot = figure.querySelector(".plot");
    try {
      start();
      const spec = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
      plot.replaceChildren();
      // The interpreter instead of generated code: the page's policy allows no eval.
      await window.vegaEmbed(plot, fitted(spec, plot.clientWidth), {
        ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
      });
      figure.dataset.state = "drawn";
      figure.dataset.drawn = "";
    } catch (error) {
      figure.dataset.state = "failed";
      plot.textContent = `This chart could not be drawn: ${error.message}`;
      throw error;
    }
  }

  const figures = [...document.querySelectorAll("figure.chart")];
  const near = new IntersectionObserver(
    (entries) => { for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); } },
    { rootMargin: "300px" },
  );
  for (const figure of figures) near.observe(figure);

  // The rest one by one in idle time, so that printing finds all of them.
  const idle = window.requestIdleCallback ?? ((job) => setTimeout(job, 50));
  async function rest() {
    const next = figures.find((figure) => !figure.dataset.state);
    if (!next) return;
    await draw(next);
    idle(rest);
  }
  addEventListener("load", () => idle(rest));
  addEventListener("beforeprint", () => { for (const figure of figures) draw(figure); });
})();
