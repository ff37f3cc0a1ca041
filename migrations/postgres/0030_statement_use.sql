-- Which use each closed statement holds, by the month in which it ran: its own, and of earlier months what was
-- recorded after they were closed. What ran in a closed month and is in no statement goes into the next.
CREATE TABLE statement_use (
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    month TEXT NOT NULL,
    of_month TEXT NOT NULL,
    mode TEXT NOT NULL,
    funding TEXT NOT NULL,
    fallback TEXT NOT NULL,
    requests BIGINT NOT NULL,
    unpriced BIGINT NOT NULL,
    estimated BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    list BIGINT NOT NULL,
    billed BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, of_month, month, mode, funding, fallback)
);
-- Of statements from before, what there is now.
INSERT INTO statement_use
SELECT s.tenant_id, s.month, s.month, u.mode, u.funding, COALESCE(u.fallback, ''), COUNT(*),
       SUM(CASE WHEN u.unpriced IS TRUE THEN 1 ELSE 0 END), SUM(CASE WHEN u.state <> 'final' THEN 1 ELSE 0 END), SUM(u.cost),
       SUM(CASE WHEN u.rate_permille = 1000 THEN u.cost ELSE (u.cost * 1000 + u.rate_permille / 2) / u.rate_permille END),
       SUM(u.billed)
FROM statement s JOIN usage u ON u.tenant_id = s.tenant_id AND u.started_at >= s.period_start AND u.started_at < s.period_end
WHERE u.state <> 'pending' GROUP BY s.tenant_id, s.month, u.mode, u.funding, COALESCE(u.fallback, '');
INSERT INTO statement_use
SELECT s.tenant_id, s.month, 'earlier times', u.mode, u.funding, COALESCE(u.fallback, ''), COUNT(*),
       SUM(CASE WHEN u.unpriced IS TRUE THEN 1 ELSE 0 END), SUM(CASE WHEN u.state <> 'final' THEN 1 ELSE 0 END), SUM(u.cost),
       SUM(CASE WHEN u.rate_permille = 1000 THEN u.cost ELSE (u.cost * 1000 + u.rate_permille / 2) / u.rate_permille END),
       SUM(u.billed)
FROM statement s JOIN usage u ON u.tenant_id = s.tenant_id AND u.started_at < s.period_start
WHERE u.state <> 'pending' AND NOT EXISTS (SELECT 1 FROM statement e WHERE e.tenant_id = s.tenant_id AND e.month < s.month)
GROUP BY s.tenant_id, s.month, u.mode, u.funding, COALESCE(u.fallback, '');
