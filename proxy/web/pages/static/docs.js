// Starts Swagger UI with this service's OpenAPI document. No other host is called, and no credentials are stored.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const applyScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", applyScheme);
applyScheme();

SwaggerUIBundle({
  // An absolute URL: on a page opened as https://name:secret@host, a relative URL would contain the credentials.
  url: `${location.origin}/openapi.json`,
  dom_id: "#swagger-ui",
  validatorUrl: null,
  persistAuthorization: false,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
});
