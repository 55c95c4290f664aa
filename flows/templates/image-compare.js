// <image-compare> with two pictures of one size: the second one is shown right of the pointer (or of the arrow keys).
if (!customElements.get("image-compare")) customElements.define("image-compare", class extends HTMLElement {
  connectedCallback() {
    this.tabIndex = 0;
    this.show(50);
    this.addEventListener("pointermove", event => {
      const box = this.getBoundingClientRect();
      this.show(100 * (event.clientX - box.left) / box.width);
    });
    this.addEventListener("keydown", event => {
      const step = {ArrowLeft: -5, ArrowRight: 5}[event.key];
      if (step) this.show(this.at + step);
    });
  }
  show(percent) {
    this.at = Math.min(100, Math.max(0, percent));
    const second = this.querySelectorAll("img")[1];
    if (second) second.style.clipPath = `inset(0 0 0 ${this.at}%)`;
  }
});
