"""Who is who: tenants, districts, sites, bins and their keys."""
