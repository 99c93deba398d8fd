// Starts Swagger UI on our own document. Nothing is asked of another host, and no credential is stored.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const dress = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", dress);
dress();

SwaggerUIBundle({
  // Whole, for a page opened as https://name:secret@host has those in front of every path that is relative.
  url: `${location.origin}/openapi.json`,
  dom_id: "#swagger-ui",
  validatorUrl: null,
  persistAuthorization: false,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});
